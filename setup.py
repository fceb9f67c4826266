"""Packaging: metadata stands in pyproject.toml; the shipped configurations go along as data files."""

from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent


def shipped(folder: str, pattern: str) -> list[tuple[str, list[str]]]:
    """Files below a folder, by the folder under share/volta_switch that each is installed into."""
    files = sorted((ROOT / folder).rglob(pattern))
    folders = sorted({path.parent.relative_to(ROOT) for path in files})
    return [
        (f"share/volta_switch/{at}", [str(path.relative_to(ROOT)) for path in files if path.parent == ROOT / at])
        for at in folders
    ]


setup(data_files=[*shipped("config", "*.json"), *shipped("config_tasks", "*.yml"), *shipped("studies", "*.yaml")])
