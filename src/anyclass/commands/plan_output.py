"""The result of `plan` as lines for people."""

from collections.abc import Sequence

from anyclass.files import Json


def plan_lines(result: Json) -> list[str]:
    """What a fit would do."""
    minutes = result["minutes"]
    disk = result["disk_mb"]
    return [
        f"images     {result['images']}, {result['labelled']} labelled",
        f"classes    {_kinds(result)}",
        f"method     {result['method']}",
        *_indented("", result["why"]),
        *_indented("note", result["remarks"]),
        f"work       {result['embeddings']:,} embeddings, {result['texts']:,} texts",
        "time       " + ("not known" if minutes is None else f"about {max(1, minutes):.0f} min"),
        "disk       " + ("not known" if disk is None else f"about {max(1, disk):.0f} MB of cache"),
        *_cost(result["language_model"]),
        *_audit(result["audit"]),
    ]


def _indented(title: str, texts: Sequence[str]) -> list[str]:
    """Texts in the column of values, each with a title."""
    return [f"{title:10} {text}" for text in texts]


LISTED = 3
"""Maximum number of classes that `plan` prints; `--json` has all."""


def _audit(found: Json) -> list[str]:
    """What was found in the data, and where the files are listed."""
    lines = []
    for finding in found["findings"]:
        first, *further = finding["lines"]
        lines += [*_indented("found", [first]), *_indented("", further)]
    checked = ", ".join(found["checked"])
    nothing = "" if found["findings"] else "nothing found in "
    if found["out"]:
        files = f"{found['out']}/audit.csv, {found['out']}/audit.json"
        return [*lines, f"audit      {nothing or 'of '}{checked}: {files}"]
    more = "pixels, copies of a photograph, wrong labels: --audit DIR"
    return [*lines, f"audit      {nothing or 'only '}{checked}; {more}"]


def _kinds(result: Json) -> str:
    """The classes, each with what is known of it: labels, or only a name."""
    about = {"labelled": "{labelled} labelled", "named": "named"}
    rows = result["classes"]
    shown = rows if len(rows) <= 2 * LISTED else rows[:LISTED]
    kinds = ", ".join(f"{row['name']} ({about[row['kind']].format(**row)})" for row in shown)
    if len(rows) > len(shown):
        kinds += f" ... and {len(rows) - len(shown)} more"
    known = [f"{len(rows)}: {kinds}"] if kinds else []
    unknown = result["unknown"]
    if unknown == "auto":
        known.append("unknown classes, their number not known")
    elif unknown:
        known.append(f"{unknown} unknown")
    return "; ".join(known)


def _cost(model: Json) -> list[str]:
    """What a language model will be asked, and what that costs."""
    if not model["calls"]:
        return ["questions  none to a language model"]
    minutes = model["minutes"]
    dollars = model["dollars"]
    return [
        f"questions  at most {model['calls']} to a language model, without those already in the "
        "response cache",
        f"tokens     about {model['tokens_in']} in, at most {model['tokens_out']} out",
        "asking     " + ("not known" if minutes is None else f"about {max(1, minutes):.0f} min"),
        f"sent       about {model['megabytes_sent']:.1f} MB to {model['sent_to']}"
        if model["sent_to"]
        else "sent       nothing leaves this machine",
        "price      " + ("not known" if dollars is None else f"about ${dollars:.2f}"),
    ]
