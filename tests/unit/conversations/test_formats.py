"""Files of one's own, formats × oddities: the turns and speakers that should come out of each."""

import io
import json
import zipfile

import pytest

from utils.dialogue_files import read_conversations

ANNA_AND_TOM = [("Anna", "Are you coming?"), ("Tom", "Yes: at ten.")]
TALK = "Anna: Are you coming?\nTom: Yes: at ten.\n"
VTT = """WEBVTT - Weekly meeting

NOTE recorded in room 3

1
00:00:01.000 --> 00:00:02.000 align:start
<v Anna>Are you

00:02.000 --> 00:03.000
coming?</v>

00:00:03.500 --> 00:00:05.000
[door closes]

00:00:05.000 --> 00:00:06.000
<v.loud Tom>Yes: <i>at</i> ten.
"""
SRT = """1
00:00:01,000 --> 00:00:02,000
Anna: Are you
coming?

2
00:00:02,000 --> 00:00:03,000
Tom: Yes:

3
00:00:03,000 --> 00:00:04,000
<font color="white">at ten.</font>
"""
ANDROID = """12/08/2016, 16:20 - Messages and calls are end-to-end encrypted. Tap to learn more.
12/08/2016, 16:20 - Anna created group "Trip: Rome"
12/08/2016, 16:20 - Anna: Are you
coming?
12/08/2016, 16:21 - Anna: <Media omitted>
12/08/2016, 16:21 - Tom: Yes: at ten.
12/08/2016, 16:22 - Tom left
"""
IOS = """[12.08.16, 16:20:01] Trip: \u200eMessages and calls are end-to-end encrypted.
\u200e[12.08.16, 16:20:02] Anna: \u200eBild weggelassen
[12.08.16, 16:20:03] Anna: Are you
coming?
[12.08.16, 16:21:00] Tom: Yes: at ten. \u200e<This message was edited>
"""
SLACK = [
    {"type": "message", "subtype": "channel_join", "user": "U1", "text": "joined", "ts": "1.0"},
    {"type": "message", "user": "U1", "text": "Are you coming?", "ts": "2.0", "thread_ts": "2.0"},
    {"type": "message", "user": "U3", "text": "Lunch, <@U1|anna>?", "ts": "3.0"},
    {"type": "message", "user": "U2", "text": "Yes: at ten.", "ts": "4.0", "thread_ts": "2.0"},
]
SLACK_USERS = [
    {"id": "U1", "name": "anna.b", "profile": {"display_name": "Anna", "real_name": "Anna B."}},
    {"id": "U2", "name": "tom", "real_name": "Tom", "profile": {"display_name": ""}},
]
IN_SLACK = [*ANNA_AND_TOM, ("U3", "Lunch, @Anna?")]
ROWS = [{"speaker": "Anna", "text": "Are you coming?"}, {"speaker": "Tom", "text": "Yes: at ten."}]


def whatsapp(*stamps: str) -> str:
    """An export with these stamps in front of its messages."""
    says = ["Anna: Are you coming?", "Tom: Yes: at ten."]
    return "\n".join(f"{stamp}{said}" for stamp, said in zip(stamps, says, strict=True))


def zipped(files: dict[str, str]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return content.getvalue()


def cues(file_format: str, *texts: str) -> str:
    """Subtitles with these cues."""
    head, point = ("WEBVTT\n\n", ".") if file_format == "vtt" else ("", ",")
    times = f"00:00:01{point}000 --> 00:00:02{point}000"
    return head + "\n".join(f"{i}\n{times}\n{text}\n" for i, text in enumerate(texts, start=1))


# (what is special, file, content, turns of each conversation)
ONE = [
    ("plain text", "a.txt", TALK),
    ("a byte order mark and CRLF", "a.txt", "\ufeff" + TALK.replace("\n", "\r\n")),
    ("CR alone, as old Macs end lines", "a.txt", TALK.replace("\n", "\r")),
    ("UTF-16 with its mark, as Notepad saves", "a.txt", TALK.encode("utf-16")),
    ("UTF-32 with its mark", "a.txt", TALK.encode("utf-32")),
    ("another extension", "a.md", "**Anna:** Are you coming?\n**Tom**: Yes: at ten."),
    ("times in front", "a.log", "[10:30] Anna: Are you coming?\n10:31:05 Tom: Yes: at ten."),
    ("times behind the name", "a.txt",
     "Anna (10:30 am): Are you coming?\nTom [10:31]: Yes: at ten."),
    ("IRC", "a.txt", "10:30 <Anna> Are you coming?\n10:31 <Tom> Yes: at ten."),
    ("a turn of two lines", "a.txt", "Anna: Are you\n  coming?\nTom: Yes: at ten."),
    ("a turn below its name", "a.txt", "Anna:\nAre you coming?\nTom: Yes:\nat ten."),
    ("full-width colons", "a.txt", "Anna：Are you coming?\nTom：Yes: at ten."),
    ("JSONL", "a.jsonl", json.dumps({"dialogue": TALK}) + "\n\n"),
    ("JSONL with a turn on each line", "a.jsonl", "\n".join(map(json.dumps, ROWS))),
    ("CSV", "a.csv", 'id,dialogue\r\n1,"Anna: Are you coming?\r\nTom: Yes: at ten."\r\n'),
    ("CSV from a German Excel", "a.csv",
     "\ufeffText;Speaker\r\nAre you coming?;Anna\r\nYes: at ten.;Tom"),
    ("TSV with empty rows", "a.tsv", "speaker\ttext\nAnna\tAre you coming?\n\t\nTom\tYes: at ten."),
    ("SAMSum", "a.json",
     json.dumps([{"id": "1", "summary": "S.", "dialogue": TALK.replace("\n", "\r\n")}])),
    ("JSON of speaker and text", "a.json", json.dumps(ROWS)),
    ("JSON of lists of turns", "a.json", json.dumps([ROWS])),
    ("turns in an object", "a.json", json.dumps({"title": "Talk", "turns": ROWS})),
    ("lines in an object", "a.json", json.dumps({"dialogue": TALK.splitlines()})),
    ("UTF-16 JSON", "a.json", json.dumps(ROWS).encode("utf-16")),
    ("voice tags", "a.vtt", VTT),
    ("voice tags, CRLF and a mark", "a.vtt", "\ufeff" + VTT.replace("\n", "\r\n")),
    ("voice tags under another extension", "a.txt", VTT),
    ("names in front, as Zoom writes them", "a.vtt",
     "WEBVTT\n\n1\n00:01.000 --> 00:02.000\nAnna: Are you\n\n2\n00:02.000 --> 00:03.000\n"
     "Anna: coming?\n\n3\n00:03.000 --> 00:04.000\nTom: Yes: at ten.\n"),
    ("two voices in a cue", "a.vtt",
     "WEBVTT\n\n00:01.000 --> 00:02.000\n<v Anna>Are you coming?</v>\n<v Tom>Yes: at ten.</v>"),
    ("a name on the first cue only", "a.srt", SRT),
    ("dashes and capitals, CR", "a.srt",
     cues("srt", "- Anna: Are you coming?\n- Tom: Yes: at ten.").replace("\n", "\r")),
    ("Android", "a.txt", ANDROID),
    ("Android, CRLF", "a.txt", ANDROID.replace("\n", "\r\n")),
    ("iPhone, in German", "_chat.txt", IOS),
    ("iPhone's zip file with its pictures", "WhatsApp Chat - Trip.zip",
     zipped({"_chat.txt": IOS, "1.jpg": "…"})),
    ("12 hours, narrow spaces", "a.txt",
     whatsapp("8/12/16, 4:20\u202fPM - ", "8/12/16, 4:21\u202fPM - ")),
    ("Spanish", "a.txt", whatsapp("12/8/2016, 4:20 p. m. - ", "12/8/2016, 4:21 p. m. - ")),
    ("French", "a.txt", whatsapp("12/08/2016 à 16:20 - ", "12/08/2016 à 16:21 - ")),
    ("Finnish", "a.txt", whatsapp("12.8.2016 klo 16.20 - ", "12.8.2016 klo 16.21 - ")),
    ("Swedish", "a.txt", whatsapp("2016-08-12 16:20 - ", "2016-08-12 16:21 - ")),
    ("Chinese", "a.txt", whatsapp("2016/8/12 下午4:20 - ", "2016/8/12 下午4:21 - ")),
    ("Korean", "a.txt", whatsapp("2016. 8. 12. 오후 4:20 - ", "2016. 8. 12. 오후 4:21 - ")),
    ("Arabic digits and marks", "a.txt",
     whatsapp("١٢\u200f/٨\u200f/٢٠١٦، ٤:٢٠ م - ", "١٢\u200f/٨\u200f/٢٠١٦، ٤:٢١ م - ")),
    ("copied from WhatsApp Web", "a.txt", whatsapp("[16:20, 8/12/2016] ", "[16:21, 8/12/2016] ")),
    ("12 hours on an iPhone", "a.txt",
     whatsapp("[8/12/16, 4:20:01 PM] ", "\u200e[8/12/16, 4:21:01 PM] ")),
    # What a stranger tried next
    ("an old iPhone", "a.txt", whatsapp("12.08.16 16:20:01: ", "12.08.16 16:21:01: ")),
    ("time before the date", "a.txt", whatsapp("16:20, 12/08/2016 - ", "16:21, 12/08/2016 - ")),
    ("Bulgarian", "a.txt", whatsapp("12.08.16 г., 16:20 - ", "12.08.16 г., 16:21 - ")),
    ("Hungarian", "a.txt", whatsapp("2016. 08. 12. 16:20 - ", "2016. 08. 12. 16:21 - ")),
    ("a numbered list", "a.txt", "1. Anna: Are you coming?\n2. Tom: Yes: at ten."),
    ("brackets and tabs", "a.txt", "[Anna]\t: Are you coming?\n[Tom]\t: Yes: at ten."),
    ("Excel's first line", "a.csv", "sep=;\nname;message\nAnna;Are you coming?\nTom;Yes: at ten."),
    ("a chat with an assistant", "a.json",
     json.dumps({"messages": [{"role": row["speaker"], "content": row["text"]} for row in ROWS]})),
    ("Telegram", "a.json", json.dumps({"name": "Tom", "messages": [
        {"id": 1, "type": "service", "actor": "Anna", "text": ""},
        {"id": 2, "from": "Anna", "text": "Are you coming?"},
        {"id": 3, "from": "Tom", "text": ["Yes: ", {"type": "bold", "text": "at ten."}]},
    ]})),
    ("styles, notes and identifiers", "a.vtt",
     "WEBVTT\nKind: captions\n\nSTYLE\n::cue(v[voice=Anna]) { color: red }\n\nNOTE\nMay 3\n\n1\n"
     "00:01.000 --> 00:02.000 position:10%\n<c.red><v Anna>Are you coming?</v></c>\n\nx/2-0\n"
     "00:02.000 --> 00:03.000\n<v Tom>Yes: <00:02.500>at&nbsp;ten.</v>"),
    ("captions for the deaf", "a.srt",
     cues("srt", "{\\an8}Anna: Are you", "♪ la la ♪", ">> Anna (off): coming?",
          "Tom: Yes: at ten.")),
    ("cues without blank lines, and an empty one", "a.srt",
     cues("srt", "Anna: Are you coming?", "", "Tom: Yes: at ten.").replace("\n\n2", "\n2")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content"), [row[1:] for row in ONE], ids=[row[0] for row in ONE])
def test_turns_and_speakers_of_one_conversation(tmp_path, name, content):
    content = content if isinstance(content, bytes) else content.encode()
    (tmp_path / name).write_bytes(content)
    (conversation,) = read_conversations(str(tmp_path / name))
    assert conversation.turns == ANNA_AND_TOM


@pytest.mark.parametrize("place", ["channel", "export", "zip", "file"])
def test_slack_replies_follow_their_message_with_the_names_of_the_users(tmp_path, place):
    files = {"users.json": json.dumps(SLACK_USERS), "channels.json": '[{"name": "general"}]'}
    files |= {f"general/2016-08-{i}.json": json.dumps(SLACK[2 * i : 2 * i + 2]) for i in (0, 1)}
    for name, text in files.items():
        (tmp_path / "export" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "export" / name).write_text(text, encoding="utf-8")
    (tmp_path / "a.zip").write_bytes(zipped({f"My team/{name}": files[name] for name in files}))
    path = {"channel": "export/general", "export": "export", "zip": "a.zip"}.get(place)
    if place == "file":
        path = "export/general/all.json"
        (tmp_path / path).write_text(json.dumps(SLACK), encoding="utf-8")
    (channel,) = read_conversations(str(tmp_path / path))
    assert channel.turns == IN_SLACK
    assert channel.dropped == 1


TWO_ROWS = [{"dialogue": TALK}, {"dialogue": "Ann-Sofie: Hi"}]
SEVERAL = [
    ("blank lines separate conversations", "a.txt", TALK + "\n \n\nAnn-Sofie: Hi\n"),
    ("rows of JSONL", "a.jsonl", "\n".join(map(json.dumps, TWO_ROWS))),
    ("rows of CSV", "a.csv", f'dialogue\n"{TALK}"\nAnn-Sofie: Hi\n'),
    ("entries of JSON", "a.json", json.dumps(TWO_ROWS)),
    ("lists in JSON", "a.json", json.dumps([ROWS, [{"speaker": "Ann-Sofie", "text": "Hi"}]])),
    ("turns with the dialogue's id", "a.csv",
     "dialogue_id,speaker,text\n7,Anna,Are you coming?\n8,Ann-Sofie,Hi\n7,Tom,Yes: at ten.\n"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content"), [row[1:] for row in SEVERAL], ids=[row[0] for row in SEVERAL]
)
def test_turns_and_speakers_of_several_conversations(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    found = read_conversations(str(tmp_path / name))
    assert [one.turns for one in found] == [ANNA_AND_TOM, [("Ann-Sofie", "Hi")]]


# (what is wrong, file, content, what is said)
ASKED = [
    ("nothing", "a.txt", " \n\n", "a.txt holds no dialogue: write at least one turn"),
    ("no speakers", "a.txt", "Hello.\nHi.", "line 1 has no speaker: 'Hello.'. Write the name"),
    ("a heading", "a.txt", "Minutes\n\n" + TALK, "line 1 has no speaker: 'Minutes'"),
    ("a line of the head", "a.txt", "Date: May 3\n" + TALK, 'line 1: is "Date" a speaker, or'),
    ("a colon in a sentence", "a.txt", "Anna: I\nthink that: no\nTom: Oh",
     'line 2: is "think that" a speaker, or part of the text\\? .* --speakers "Anna" "Tom"'),
    ("a list with colons", "a.txt", "Anna: Two:\n- first: go\nTom: Oh", 'is "first" a speaker'),
    ("a colon beside voice tags", "a.vtt", cues("vtt", "<v Anna>Hi", "Note: no"),
     'is "Note" a speaker.*--speakers "Anna"$'),
    ("blank lines between turns", "a.txt", TALK.replace("\n", "\n\n"),
     "add --format transcript to the command; if each turn is a dialogue, --format text"),
    ("Latin-1", "a.txt", "caf\u00e9".encode("latin-1"), "a.txt is not UTF-8 .*save it with"),
    ("half of UTF-16", "a.txt", TALK.encode("utf-16")[:-1], "a.txt is not UTF-16"),
    ("UTF-16 without its mark", "a.txt", TALK.encode("utf-16-le"), "it contains null bytes.: save"),
    ("a program's format", "a.docx", b"PK\x03\x04\0", "a.docx is not UTF-8 .*save it .* as text"),
    ("JSON without the extension", "a.txt", json.dumps(ROWS), "looks like JSON: add --format"),
    ("JSON cut off", "a.json", '[{"dialogue": "An', "a.json is not JSON .*correct it, or"),
    ("JSONL as JSON", "a.json", '{"dialogue": "A: B"}\n{"dialogue": "A: B"}', "give --format j"),
    ("no JSON in a line", "a.jsonl", '{"dialogue": "A: B"}\nhello\n', "line 2 is not JSON"),
    ("deep JSON", "a.json", "[" * 100_000, "a.json is not JSON"),
    ("JSON of texts", "a.json", '["Anna: Hi", "Tom: Hi"]', "entry 1 is 'Anna: Hi': write rows"),
    ("JSON of something", "a.json", '{"data": [1, 2]}', 'write rows with "dialogue", or with "sp'),
    ("a number as a dialogue", "a.jsonl", '{"dialogue": 3}', "line 1 is {'dialogue': 3}: write"),
    ("a number as a text", "a.json", '[{"speaker": "A", "text": 3}]', 'entry 1 has no "text"'),
    ("rows of two kinds", "a.json", json.dumps([ROWS[0], {"a": 1}]), "entry 2 is .* unlike"),
    ("an id that means what?", "a.csv", "id,speaker,text\n1,A,b\n1,B,c\n2,C,d\n", 'share an "id"'),
    ("messages of Slack without a time", "a.json", '[{"user": "U1", "ts": "x"}]', "no time under"),
    ("a turn of nobody", "a.json", json.dumps([*ROWS, {"text": "Hi"}]), 'entry 3 has no "spe'),
    ("two kinds of names", "a.json", '[{"user": "A", "role": "B", "text": "C"}]',
     'has user and role: call one of them "speaker"'),
    ("half a character", "a.jsonl", '{"dialogue": "A: B"}\n{"dialogue": "A: \\ud800"}\n',
     "line 2 holds half a character"),
    ("an empty dialogue", "a.csv", "dialogue,id\nA: hello,1\n,2\n", "row 2 is empty: fill it in"),
    ("other columns", "a.csv", "id,line\n1,hello\n", "call one of them dialogue, or two of"),
    ("no quotes", "a.csv", "speaker,text\nAnna,Yes, at ten\n", "row 1 has more cells than the"),
    ("a quote that stays open", "a.csv", 'dialogue\nA: B\n"A: C\nA: D\n',
     "after line 2: this is not CSV.*check its quotes"),
    ("subtitles without speakers", "a.vtt", cues("vtt", "Hello."),
     "cue 00:00:01.000 has no speaker"),
    ("a speaker who is not named", "a.srt", cues("srt", "Anna: Hi.", "- Hello."),
     "cue 00:00:01.000: '- Hello.' starts a turn without a name: add it"),
    ("captions that mark speakers only", "a.vtt", cues("vtt", "Anna: Hi.", "&gt;&gt; Hello."),
     "'>> Hello.' starts a turn without a name: add it"),
    ("no first line", "a.vtt", cues("srt", "Anna: Hi."), "cannot be read as .vtt"),
    ("a wrong time", "a.srt", cues("srt", "Anna: Hi.", "Tom: Hi.").replace(":02,000\nTom", "\nTom"),
     "cues to correct .wrong time or number.: 1"),
    ("half a message first", "a.txt", "see you\n" + ANDROID, "line 1 belongs to no message"),
    ("no zip file", "a.zip", b"PK\x03\x04", "a.zip cannot be unpacked"),
    ("a zip file of chats", "a.zip", zipped({"a.txt": TALK, "b.txt": TALK}), "choose a single"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "said"), [row[1:] for row in ASKED], ids=[row[0] for row in ASKED]
)
def test_what_cannot_be_told_is_asked_about_with_its_place(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=said):
        read_conversations(str(tmp_path / name))


# What answers the questions


def test_a_transcript_is_one_conversation_whatever_its_blank_lines(tmp_path):
    (tmp_path / "a.txt").write_text(TALK.replace("\n", "\n\n"), encoding="utf-8")
    assert [one.turns for one in read_conversations(str(tmp_path / "a.txt"), "transcript")] == [
        ANNA_AND_TOM
    ]
    assert len(read_conversations(str(tmp_path / "a.txt"), "text")) == 2


def test_names_that_are_given_are_the_only_ones(tmp_path):
    (tmp_path / "a.txt").write_text(
        "anna: I\nthink that: no\nNote: TOM: Oh\ntom: Oh", encoding="utf-8"
    )
    (one,) = read_conversations(str(tmp_path / "a.txt"), speakers=["Anna", "Tom"])
    assert one.turns == [("Anna", "I think that: no Note: TOM: Oh"), ("Tom", "Oh")]
    with pytest.raises(ValueError, match="--speakers 'Bob': no line of the file begins"):
        read_conversations(str(tmp_path / "a.txt"), speakers=["Anna", "Bob"])


@pytest.mark.parametrize(
    "text",
    [
        "see https://example.org",
        "at 10:30",
        "10:30 is fine",
        r"C:\chats",
        "I see :)",
        "Nice :D",
        "what I really think is this: no",
        "“Tom”: no",
    ],
)
def test_a_colon_does_not_make_a_speaker(tmp_path, text):
    (tmp_path / "a.txt").write_text(f"Anna: Well,\n{text}", encoding="utf-8")
    (one,) = read_conversations(str(tmp_path / "a.txt"))
    assert one.turns == [("Anna", f"Well, {text}")]


@pytest.mark.parametrize(
    "name",
    [
        "Dr. Smith",
        "María de la Cruz",
        "MRS JONES",
        "Speaker 1",
        "小明",
        "أحمد",
        "+44 7700 900123",
        "J.R.",
        "Ludwig van Beethoven",
        "#Person2#",
    ],
)
def test_names_of_all_kinds_are_speakers_without_asking(tmp_path, name):
    (tmp_path / "a.txt").write_text(f"Anna: Well,\nhello\n{name}: Hi", encoding="utf-8")
    (one,) = read_conversations(str(tmp_path / "a.txt"))
    assert one.turns == [("Anna", "Well, hello"), (name, "Hi")]


def test_names_in_small_letters_are_speakers_where_they_recur_or_every_line_has_one(tmp_path):
    recurring = "hotel clerk: Hi\nand\nguest one: Hi\nhotel clerk: Bye\nguest one: Bye"
    (tmp_path / "a.txt").write_text(recurring, encoding="utf-8")
    (tmp_path / "b.txt").write_text("hotel clerk: Hi\nguest: Hi", encoding="utf-8")
    (tmp_path / "c.txt").write_text("Anna: Hi\nguest: Hi", encoding="utf-8")
    for name, number in (("a.txt", 4), ("b.txt", 2), ("c.txt", 2)):
        (one,) = read_conversations(str(tmp_path / name))
        assert len(one.turns) == number and one.turns[-1][0].startswith("guest")


def test_stage_directions_and_other_capitals_do_not_make_another_speaker(tmp_path):
    lines = ["Anna: Hi", "Tom (host): Hi", "ANNA (laughing): Oh", "Tom (host): Bye"]
    (tmp_path / "a.txt").write_text("\n".join(lines), encoding="utf-8")
    (one,) = read_conversations(str(tmp_path / "a.txt"))
    assert [turn.speaker for turn in one.turns] == ["Anna", "Tom (host)", "Anna", "Tom (host)"]


def test_what_no_person_wrote_in_whatsapp_is_left_out_and_counted(tmp_path):
    stamp = "12/08/2016, 16:20 - "
    lines = ["Anna: IMG-1.jpg (file attached)\nLook!", "Anna: <Multimedia omitido>", "Tom: null"]
    lines += [
        "Tom: This message was deleted",
        "~\u202fBo: \u2068@Tom\u2069 ok",
        "Missed voice call",
    ]
    lines += [
        'Bo changed the subject to "Trip: Rome"\nand more',
        "Bo: bye <This message was edited>",
    ]
    text = "\n".join(stamp + line for line in lines)
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    (one,) = read_conversations(str(tmp_path / "a.txt"))
    assert one.turns == [("Anna", "Look!"), ("Bo", "@Tom ok"), ("Bo", "bye")]
    assert one.dropped == 5
    assert one.contents.endswith("3 turn(s) of Anna, Bo; entries left out (no speech): 5")


def test_what_follows_the_mark_of_ios_is_left_out_in_every_language(tmp_path):
    lines = ["Anna: Schau! \u200eBild weggelassen", "Anna: \u200e<Anhang: 1.jpg>\nSchön"]
    lines += ["Tom: \u200fשלום \u200eOK and so on, for ever", "Tom: Ja\nNein \u200e<Bearbeitet>"]
    lines += ["\u202a+44\xa07700\u202c: \u200eBo ist beigetreten"]
    text = "\n".join(f"\u200e[12.08.16, 16:20:01] {line}" for line in lines)
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    (one,) = read_conversations(str(tmp_path / "a.txt"))
    assert [turn.text for turn in one.turns] == [
        "Schau!",
        "Schön",
        "שלום OK and so on, for ever",
        "Ja Nein",
    ]


def test_slacks_profiles_mentions_links_and_bots_read_as_in_slack(tmp_path):
    profile = {"real_name": "Anna B.", "display_name": "Anna"}
    messages = [
        {"user": "U1", "user_profile": profile, "text": "Hi <!here>, <@U2|tom>: a &lt; b"},
        {"subtype": "bot_message", "username": "Build", "text": "<https://a.org|done> <#C1|dev>"},
        {"user": "U2", "text": "", "files": [{}]},
    ]
    messages = [{"type": "message", "ts": f"{i}.0", **row} for i, row in enumerate(messages)]
    (tmp_path / "a.json").write_text(json.dumps(messages), encoding="utf-8")
    (one,) = read_conversations(str(tmp_path / "a.json"))
    assert one.turns == [("Anna", "Hi @here, @tom: a < b"), ("Build", "done #dev")]
    assert one.dropped == 1
