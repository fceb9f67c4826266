"""What is changed in other people's modules is taken back, whatever it was before."""

from types import SimpleNamespace

from volta_switch.plugin.replacements import Patches


class Parent:
    def greet(self):
        return "parent"


class Child(Parent):
    pass


def test_attributes_and_entries_are_taken_back_in_the_opposite_order():
    owner, entries, patches = SimpleNamespace(kept=1), {"kept": 1}, Patches()
    for value in (2, 3):
        patches.set(owner, "kept", value)
        patches.set(owner, "new", value)
        patches.set_item(entries, "kept", value)
        patches.set_item(entries, "new", value)
    assert patches and vars(owner) == entries == {"kept": 3, "new": 3}
    patches.undo()
    patches.undo()
    assert not patches and vars(owner) == entries == {"kept": 1}


def test_an_inherited_method_is_covered_and_uncovered():
    patches = Patches()

    @patches.wrap(Child, "greet")
    def greet(original, self):
        return original(self) + " and child"

    assert Child().greet() == "parent and child" and Parent().greet() == "parent"
    patches.undo()
    assert "greet" not in vars(Child) and Child().greet() == "parent"


def test_wrappers_stack_the_latest_outside():
    patches, owner = Patches(), SimpleNamespace(double=lambda number: 2 * number)
    for step in (1, 10):

        @patches.wrap(owner, "double")
        def more(original, number, step=step):
            return original(number) + step

    assert owner.double(5) == 21
    patches.undo()
    assert owner.double(5) == 10
