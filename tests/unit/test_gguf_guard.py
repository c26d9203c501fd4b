"""Damaged and hostile GGUF files: always ModelFileError, never another exception, never an endless loop."""

import contextlib
import struct
import time
from pathlib import Path

import pytest
from gguf_files import TENSORS, write_gguf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitclass3_core.errors import ModelFileError
from bitclass3_core.gguf.guard import check_gguf
from bitclass3_core.gguf.model import GgufModel

F32, F16, STRING, ARRAY, UINT32 = 0, 1, 8, 9, 4
SMALL = {"token_embd.weight": ((2, 32), "F32"), "output_norm.weight": ((32,), "F32")}


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def pair(key: bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


ARCHITECTURE = pair(b"general.architecture", STRING, text(b"llama"))


def tensor(name: bytes = b"a.weight", shape: tuple[int, ...] = (32, 2), kind: int = F32, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def gguf(
    path: Path,
    pairs: tuple[bytes, ...] = (ARCHITECTURE,),
    tensors: tuple[bytes, ...] = (tensor(),),
    *,
    version: int = 3,
    n_tensors: int | None = None,
    n_pairs: int | None = None,
    n_data: int = 256,
) -> Path:
    """A GGUF built by hand; the counts say what they are told to say."""
    counts = (len(tensors) if n_tensors is None else n_tensors, len(pairs) if n_pairs is None else n_pairs)
    head = struct.pack("<IIQQ", 0x46554747, version, *counts) + b"".join(pairs) + b"".join(tensors)
    path.write_bytes(head + bytes(-len(head) % 32) + bytes(n_data))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "m.gguf"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_gguf(tmp_path_factory.mktemp("guard") / "small.gguf", SMALL).read_bytes()


def use(path: Path) -> None:
    """Everything that a run asks of a source."""
    model = GgufModel(path)
    _ = model.metadata, model.arch, model.name, model.fingerprint
    for name in model.tensors:
        model.read_raw(name)


@pytest.mark.parametrize("version", [2, 3])
def test_whole_file_is_let_through(file, version):
    check_gguf(gguf(file, version=version))
    assert GgufModel(file).arch == "llama"


def test_every_cut_is_refused(small, file):
    """Header, metadata, tensor entries, data: byte by byte up to the data, then some."""
    begin = len(small) - 2 * 32 * 4 - 32 * 4
    for n_bytes in [*range(begin), *range(begin, len(small), 31)]:
        file.write_bytes(small[:n_bytes])
        with pytest.raises(ModelFileError, match=r"damaged or truncated|is no GGUF"):
            check_gguf(file)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.2, 0.5, 0.8, 0.99, 0.999])
def test_truncated_model_is_refused_by_who_opens_it(tmp_path, file, share):
    whole = write_gguf(tmp_path / "whole.gguf", TENSORS).read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ModelFileError, match=r"m\.gguf (is damaged or truncated|is no GGUF).*download or convert it again"):
        GgufModel(file)


def test_message_says_how_much_is_missing(small, file):
    file.write_bytes(small[:-64])
    with pytest.raises(ModelFileError, match=f"needs bytes up to {len(small)}, the file has {len(small) - 64}; download"):
        check_gguf(file)


def test_tiny_file(file):
    file.write_bytes(b"GGUF")
    with pytest.raises(ModelFileError, match="is no GGUF: it has only 4 bytes"):
        check_gguf(file)


def test_empty_file(file):
    file.touch()
    with pytest.raises(ModelFileError, match="is no GGUF: it has only 0 bytes"):
        check_gguf(file)


def test_wrong_magic(small, file):
    file.write_bytes(b"GGML" + small[4:])
    with pytest.raises(ModelFileError, match="no GGUF magic"):
        check_gguf(file)


@pytest.mark.parametrize("version", [0, 1, 4, 0x03000000])
def test_unknown_version(file, version):
    with pytest.raises(ModelFileError, match=f"GGUF version {version}, only 2 and 3 are known"):
        check_gguf(gguf(file, version=version))


def test_missing_file(file):
    with pytest.raises(ModelFileError, match=r"m\.gguf does not exist; check the path of the GGUF"):
        check_gguf(file)


def test_folder(tmp_path):
    with pytest.raises(ModelFileError, match=r"cannot be read as a GGUF: Is a directory|is no GGUF"):
        check_gguf(tmp_path)


def test_path_through_a_file(file):
    file.touch()
    with pytest.raises(ModelFileError, match="cannot be read as a GGUF: Not a directory"):
        check_gguf(file / "model.gguf")


NO_UTF8 = text(b"\xff\xfe")
HUGE = (1 << 64) - 1
HOSTILE = {
    "string length": ({"pairs": (pair(b"k", STRING, struct.pack("<Q", HUGE)),)}, "metadata string of 18446744073709551615 bytes"),
    "key length": ({"pairs": (struct.pack("<Q", HUGE),)}, "metadata key of 18446744073709551615 bytes does not fit"),
    "array of numbers": ({"pairs": (pair(b"k", ARRAY, struct.pack("<IQ", UINT32, HUGE)),)}, "metadata array of .* bytes does not"),
    "array of strings": ({"pairs": (pair(b"k", ARRAY, struct.pack("<IQ", STRING, HUGE)),)}, "metadata string.* does not fit"),
    "array of nothing known": ({"pairs": (pair(b"k", ARRAY, struct.pack("<IQ", 77, HUGE)),)}, "metadata of unknown kind 77"),
    "array of arrays": ({"pairs": (pair(b"k", ARRAY, struct.pack("<IQ", ARRAY, 1)),)}, "metadata array of arrays"),
    "kind of value": ({"pairs": (pair(b"k", 99, b""),)}, "metadata of unknown kind 99"),
    "metadata count": ({"n_pairs": HUGE}, "does not fit"),
    "tensor count": ({"n_tensors": HUGE}, "tensor '' with 0 dimensions"),
    "dimensions": ({"tensors": (tensor(shape=(32, 1, 1, 1, 1)),)}, "tensor 'a.weight' with 5 dimensions"),
    "no dimensions": ({"tensors": (tensor(shape=()),)}, "tensor 'a.weight' with 0 dimensions"),
    "zero rows": ({"tensors": (tensor(shape=(32, 0)),)}, r"tensor 'a.weight' with a shape \[32, 0\] that its type cannot hold"),
    "row of no whole blocks": ({"tensors": (tensor(shape=(48, 2), kind=8),)}, r"a shape \[48, 2\] that its type cannot hold"),
    "shape": ({"tensors": (tensor(shape=(1 << 62, 1 << 62)),)}, "tensor 'a.weight' needs bytes up to"),
    "offset": ({"tensors": (tensor(offset=1 << 40),)}, "tensor 'a.weight' needs bytes up to 1099511628160, the file has 384"),
    "offset that is not aligned": ({"tensors": (tensor(offset=8),)}, "tensor 'a.weight' needs bytes up to"),
    "type": ({"tensors": (tensor(kind=999),)}, "tensor 'a.weight' of unknown type 999"),
    "key that is no UTF-8": ({"pairs": (pair(b"\xff\xfe", UINT32, bytes(4)),)}, "metadata key that is no UTF-8"),
    "string that is no UTF-8": ({"pairs": (pair(b"k", STRING, NO_UTF8),)}, "metadata string that is no UTF-8"),
    "name that is no UTF-8": ({"tensors": (tensor(b"\xff\xfe"),)}, "tensor name that is no UTF-8"),
    "name twice": ({"tensors": (tensor(), tensor())}, "tensor 'a.weight' twice"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_numbers_are_refused_at_once(file, what):
    changes, message = HOSTILE[what]
    begin = time.monotonic()
    with pytest.raises(ModelFileError, match=message):
        check_gguf(gguf(file, **changes))
    assert time.monotonic() - begin < 1


def test_no_tensors(file):
    with pytest.raises(ModelFileError, match=r"has no tensors \(a vocabulary-only GGUF\?\); give the GGUF with the weights"):
        GgufModel(gguf(file, tensors=(), n_data=0))


def test_alignment_of_the_file_is_kept_to(file):
    aligned = pair(b"general.alignment", UINT32, struct.pack("<I", 64))
    two = (tensor(), tensor(b"b.weight", offset=256))
    with pytest.raises(ModelFileError, match=r"'b\.weight' needs"):
        check_gguf(gguf(file, (aligned,), (tensor(), tensor(b"b.weight", offset=288)), n_data=640))
    check_gguf(gguf(file, (aligned,), two, n_data=640))


@pytest.mark.parametrize(
    ("pairs", "tensors"),
    [
        ((pair(b"general.alignment", UINT32, struct.pack("<I", 48)),), (tensor(),)),
        ((ARCHITECTURE, ARCHITECTURE), (tensor(),)),
    ],
    ids=["alignment", "key twice"],
)
def test_what_the_guard_lets_through_and_the_reader_refuses(file, pairs, tensors):
    with pytest.raises(ModelFileError, match="is no readable GGUF"):
        use(gguf(file, pairs, tensors, n_data=1024))


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_bytes_never_end_in_another_error(small, file, data):
    """Bytes flipped or put in, mostly in the header: the file opens or is refused."""
    content = bytearray(small)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content[place] = data.draw(st.integers(0, 255))
        else:
            content[place:place] = data.draw(st.binary(min_size=1, max_size=9))
    file.write_bytes(content)
    with contextlib.suppress(ModelFileError):
        use(file)
