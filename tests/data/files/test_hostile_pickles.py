"""Pickles written to do harm: nothing called, nothing reserved, no hang; plain data or an error in one line."""

import pickle
import resource
import struct
import sys
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corruption import CASES, corrupted
from small_regions import some_regions
from volta_switch.data.files import safe_pickle
from volta_switch.data.files.feature_records import encode_h5, encode_npy
from volta_switch.errors import UserError

PLAIN = (list, dict, OrderedDict, tuple, set, frozenset, str, bytes, bytearray, int, float, complex, bool, type(None))
ALLOWED = [*safe_pickle._ALLOWED]
NAMES = st.one_of(
    st.sampled_from([("os", "system"), ("builtins", "eval"), ("builtins", "exec"), ("builtins", "getattr"),
                     ("subprocess", "Popen"), ("numpy", "load"), ("numpy.core.multiarray", "fromfile"),
                     ("collections", "OrderedDict.__init__"), ("numpy", "ndarray.tofile"), ("builtins", "__import__"),
                     ("volta_switch.data.files.safe_pickle", "loads"), ("copyreg", "_reconstructor"),
                     ("codecs", "encode")]),
    st.sampled_from(ALLOWED),
    st.tuples(st.sampled_from(sorted(sys.stdlib_module_names)), st.text("abcdefgh_.", min_size=1, max_size=8)),
)  # fmt: skip
TEXT = st.text(max_size=6)
CODES = b"(())tt]}lddaesubRRRRbboN012\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x94\x97\x98Q"  # without arguments
VALUES = [
    *PLAIN, *{pickle.dumps(value, protocol=protocol) for protocol in range(5) for value in
              (1, -5, 2**40, 1.5, "é", b"x", None, True, [1], {"a": 1}, (1, 2), {1}, frozenset([1]), np.arange(3),
               np.float32(2), np.dtype("<f4"), OrderedDict(a=1), bytearray(b"x"), 1j, np.zeros((2, 2), dtype="U3"))}
]  # fmt: skip
VALUES = [value for value in VALUES if isinstance(value, bytes)]


def read(data):
    """What the reader gives, or None where it refuses."""
    try:
        value = safe_pickle.loads(data, "given.pkl")
    except UserError as error:
        assert len(str(error).splitlines()) == 1 and str(error).startswith("given.pkl: ") and len(str(error)) < 700
        return None
    assert plain(value)
    return value


def plain(value):
    """Whether something is made of what the reader promises, as far as one can see without following shared parts."""
    seen, left = set(), [value]
    while left:
        value = left.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, np.ndarray | np.generic | np.dtype):
            dtype = value if isinstance(value, np.dtype) else value.dtype
            if dtype.hasobject or dtype.fields is not None or dtype.subdtype is not None:
                return False
            if isinstance(value, np.ndarray):
                value.tobytes()  # reads every byte
        elif type(value) not in PLAIN and not callable(value):
            return False
        if isinstance(value, dict):
            left += [*value, *value.values()]
        elif isinstance(value, list | tuple | set | frozenset):
            left += value
    return True


@st.composite
def programs(draw):
    """Opcodes in any order, with arguments that a writer of pickles could give them."""
    out = []
    for _ in range(draw(st.integers(1, 14))):
        module, name = draw(NAMES)
        text = draw(TEXT).encode()
        number = draw(st.sampled_from([0, 1, 2, 255]))
        huge = draw(st.sampled_from([2**31 - 1, 2**32 - 1, 2**40, 2**62, 2**64 - 1]))
        parts = [
            f"c{module}\n{name}\n".encode(), f"i{module}\n{name}\n".encode(),
            b"\x8c" + bytes([len(module)]) + module.encode() + b"\x8c" + bytes([len(name)]) + name.encode() + b"\x93",
            *(bytes([code]) for code in CODES),
            b"K" + bytes([number]), b"J" + struct.pack("<i", -number), b"G" + struct.pack(">d", 1e308 * number),
            b"\x8c" + bytes([len(text)]) + text, b"X" + struct.pack("<I", len(text)) + text,
            b"C" + bytes([len(text)]) + text, b"h" + bytes([number]), b"q" + bytes([number]),
            b"j" + struct.pack("<I", number),
            b"r" + struct.pack("<I", huge & 0xFFFFFFFF), b"p%d\n" % huge, b"g%d\n" % number,
            b"I%d\n" % huge, b"L%dL\n" % huge,
            b"B" + struct.pack("<I", huge & 0xFFFFFFFF), b"\x8e" + struct.pack("<Q", huge),
            b"\x8d" + struct.pack("<Q", huge),
            b"\x96" + struct.pack("<Q", huge), b"\x95" + struct.pack("<Q", huge),
            b"\x8b" + struct.pack("<i", huge & 0x7FFFFFFF),
            b"\x82" + bytes([number]), b"\x83\x01\x00", b"\x84\x01\x00\x00\x00", b"Pid\n", b"\x80" + bytes([number]),
        ]  # fmt: skip
        out.append(draw(st.one_of(st.sampled_from(parts), st.sampled_from(VALUES).map(lambda value: value[:-1]))))
    return b"".join(out) + b"."


@pytest.fixture(autouse=True)
def little_memory():
    """What would reserve a gigabyte more than there is now fails."""
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@CASES
@given(programs())
def test_no_order_of_opcodes_does_harm(data):
    read(data)


@CASES
@given(st.sampled_from(VALUES), st.data())
def test_a_corrupted_pickle_is_plain_data_or_refused(value, data):
    read(data.draw(corrupted(value)))


@CASES
@given(st.sampled_from([encode_h5, encode_npy]), st.integers(0, 4), st.data())
def test_a_corrupted_record_of_arrays_is_plain_data_or_refused(encode, protocol, data):
    read(data.draw(corrupted(pickle.dumps(encode(some_regions("1", 1, 2)), protocol=protocol))))


@CASES
@given(NAMES, st.sampled_from(range(4)), st.sampled_from(VALUES), st.booleans())
def test_no_name_outside_the_list_is_looked_up(name, way, argument, nested):
    """Whatever the opcode that asks for it, and however deep it stands."""
    module, attribute = name
    short = [b"\x8c" + bytes([len(part)]) + part.encode() for part in name]
    call = [
        f"c{module}\n{attribute}\n".encode() + argument[:-1] + b"\x85R",
        b"\x80\x04" + short[0] + short[1] + b"\x93" + argument[:-1] + b"\x85R",
        b"(" + argument[:-1] + f"i{module}\n{attribute}\n".encode(),
        f"c{module}\n{attribute}\n".encode() + b")\x81" + argument[:-1] + b"b",
    ][way]
    data = b"](K\x01}K\x02(" + call + b"ltse." if nested else call + b"."
    if name in ALLOWED:
        read(data)
    else:
        assert read(data) is None
        before = set(sys.modules)
        with pytest.raises(UserError, match=r"the pickle asks for|not a readable pickle"):
            safe_pickle.loads(call + b".", "given.pkl")
        assert set(sys.modules) == before  # not even imported


@CASES
@given(st.sampled_from(["O", "O8", "V8", "M8", "f4,O", "(2,)O", "f4", "U3", "S0", "i8", "|O", "f99", "f1000000000"]),
       st.sampled_from([(3, "<", None, None, None, -1, -1, 0), (3, "<", (np.dtype("f8"), (9,)), None, None, 8, 1, 0),
                        (3, "<", None, ("a",), {"a": (np.dtype("f8"), 10**6)}, 8, 1, 0),
            (3, "<", None, None, None, 10**9, 1, 0),
                        (3, "|", None, None, None, -1, -1, 63), (), None, (1, 2)]),
       st.sampled_from([(0,), (1,), (2**62,), (-1,), (2**31, 2**31), (1,) * 40, (0, 2**62), None]),
       st.sampled_from([b"", b"\x01" * 8, b"\x01" * 4, [None], "text", 3]))  # fmt: skip
def test_no_array_of_objects_is_made_and_none_reaches_beyond_its_bytes(name, state, shape, content):
    code = pickle.dumps
    dtype = b"cnumpy\ndtype\n" + code((name, False, True))[2:-1] + b"R"
    if state is not None:
        dtype += code(state, protocol=2)[2:-1] + b"b"
    raw = code(content, protocol=3)[2:-1]
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"
    array = empty + b"(K\x01" + code(shape, protocol=2)[2:-1] + dtype + b"\x89" + raw + b"tb."
    read(array)
    read(b"cnumpy.core.multiarray\nscalar\n" + dtype + raw + b"\x86R.")
    read(b"cnumpy\nndarray\n" + code(shape, protocol=2)[2:-1] + b"\x85R.")
    assert np.dtype("f4").byteorder == "=" and np.dtype("f8").fields is None  # the types of everybody else


BOMBS = {
    "a list of any length as a memo": b"\x80\x04Nr\xff\xff\xff\x7f.",
    "the same in digits": b"Np99999999999\n.",
    "a bytearray of a number": b"cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x10\x85R.",
    "a bytearray that is promised": b"\x96" + struct.pack("<Q", 1 << 36) + b".",
    "bytes that are promised": b"\x8e" + struct.pack("<Q", 1 << 36) + b".",
    "an array of a shape alone": b"cnumpy\nndarray\n\x8a\x05\x00\x00\x00\x00\x10\x85R.",
    "a tuple in a tuple, as a key": b"})" + b"\x85" * 300_000 + b"Ns.",
    "twice itself, as a key": b"})" + b"2\x86" * 200 + b"Ns.",
    "twice itself, kept in the memo": b"})" + b"q\x00h\x00\x86" * 200 + b"Ns.",
    "a frozenset in a frozenset": b"(\x91" + b"".join([b"q\x00(h\x00\x91"] * 100_000) + b".",
    "another's class changed": b"ccollections\nOrderedDict\nN}\x8c\x06updateK\x01s\x86b.",
    "another's function changed": b"c_codecs\nencode\nN}\x8c\x0c__defaults__K\x01\x85s\x86b.",
    "one of a bunch of digits": b"I" + b"9" * 100_000 + b"\n.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused(name):
    assert read(BOMBS[name]) is None


def test_deep_and_long_pickles_are_read_in_no_time():
    assert read(b"N" * 5_000_000 + b".") is None  # the last of five million values, where one is expected
    deep = read(b"]" + b"]" * 200_000 + b"a" * 200_000 + b".")
    assert len(deep) == 1


def test_the_types_of_everybody_else_stay_as_they_are():
    for data in BOMBS.values():
        read(data)
    assert safe_pickle.loads(pickle.dumps(OrderedDict(a=1)), "x") == {"a": 1}
    assert safe_pickle.loads(pickle.dumps(b"\xff", protocol=2), "x") == b"\xff"
