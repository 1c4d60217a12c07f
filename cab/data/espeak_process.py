"""A program of its own, which speaks sentences with the library espeak-ng, and is started by `cab.data.espeak`.

It is never imported: the library has the GPL. It takes the folder with `libespeak-ng.so` and `espeak-ng-data`, and
reads a sentence a line. It writes a line with the library's version, then for each sentence the numbers of its samples
and of its phonemes, int32, the samples, int16, and the phonemes: the first sample, int32, and the name, 8 bytes.
"""

import ctypes
import struct
import sys

RETRIEVE, PHONEME_EVENTS, PHONEME, UTF8 = 1, 1, 7, 1  # of speak_lib.h
VOICE = b"en-us"


class Event(ctypes.Structure):
    """`espeak_EVENT`."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("milliseconds", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("name", ctypes.c_char * 8),
    ]


def main(folder: str) -> None:
    """Speak every line of the standard input."""
    library = ctypes.CDLL(f"{folder}/libespeak-ng.so")
    library.espeak_Info.restype = ctypes.c_char_p
    rate = library.espeak_Initialize(RETRIEVE, 0, folder.encode(), PHONEME_EVENTS)
    if rate < 0 or library.espeak_SetVoiceByName(VOICE):
        raise SystemExit(f"espeak-ng has no voice {VOICE.decode()} in {folder}")
    samples: list[bytes] = []
    phonemes: list[bytes] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(Event))
    def receive(wave, count, events):  # type: ignore[no-untyped-def]
        if wave and count > 0:
            samples.append(ctypes.string_at(wave, 2 * count))
        number = 0
        while events[number].type:
            if events[number].type == PHONEME:
                phonemes.append(struct.pack("<i8s", events[number].sample, events[number].name))
            number += 1
        return 0

    library.espeak_SetSynthCallback(receive)
    out = sys.stdout.buffer
    out.write(library.espeak_Info(None).split()[0] + f" {rate}\n".encode())
    for line in sys.stdin.buffer:
        samples.clear()
        phonemes.clear()
        text = line.strip()
        if library.espeak_Synth(text, len(text) + 1, 0, 1, 0, UTF8, None, None) or library.espeak_Synchronize():
            raise SystemExit(f"espeak-ng could not speak {text.decode()!r}")
        audio = b"".join(samples)
        out.write(struct.pack("<ii", len(audio) // 2, len(phonemes)) + audio + b"".join(phonemes))


if __name__ == "__main__":
    main(sys.argv[1])
