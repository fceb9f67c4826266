"""What several processes write at once is read from each by itself."""

from plugin.apart import Apart

WRITE_AT_ONCE = """
    import multiprocessing

    def write(name):
        for number in range(2000):  # unbuffered and in two pieces, so that on one stream they would mix
            os.write(2, f"{name} ".encode())
            os.write(1, f"{number}\\n".encode())

    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=write, args=(name,)) for name in ("first", "second")]
    [child.start() for child in children]
    write("itself")
    tell("half a line", end_of_it := 1)
    [child.join() for child in children]
    tell("done", *[child.pid for child in children])
"""


def test_no_process_cuts_another_ones_lines(tmp_path):
    program = Apart(tmp_path / "outputs", WRITE_AT_ONCE, (), tmp_path)
    assert program.ends(60) == 0, program.written
    assert program.told[0] == "half a line 1"
    _, first, second = program.told[1].split()
    for name, number in (("itself", program.process.pid), ("first", int(first)), ("second", int(second))):
        assert program.written[number].splitlines() == [f"{name} {line}" for line in range(2000)]


def test_a_child_that_fails_is_heard_while_its_parent_waits_for_ever(tmp_path):
    code = """
        import multiprocessing, time

        def fail():
            raise ValueError("this child has failed")

        multiprocessing.get_context("fork").Process(target=fail).start()
        time.sleep(600)
    """
    program = Apart(tmp_path / "outputs", code, (), tmp_path)
    assert program.child_writes("ValueError: this child has failed", 60)
    assert program.ends(0.1) is None and program.process.returncode == -9
    assert "failed" not in program.written[program.process.pid] and program.told == []
