"""What a pilot reads when a file is wrong: each case is a file's change and the messages, word for word."""

from __future__ import annotations

import pytest

from .conftest import Messages

BASE = """\
campaign: mini
butler:
  input: [HSC/raw/all]
  output: u/me/mini
pipeline: mini.yaml
sites: local
steps:
  step1: {pipeline: "#step1"}
  step2: {pipeline: "#step2", needs: [step1]}
"""

CASES: dict[str, tuple[tuple[str, str], list[str]]] = {
    "unknown key": (
        ("campaign: mini", "campaign: mini\ndescripton: test"),
        ["c.yaml:2: descripton: unknown key; did you mean 'description'?"],
    ),
    "unknown key in camel case": (
        ('"#step1"}', '"#step1", groupBy: {dimension: visit}}'),
        ["c.yaml:8: steps.step1.groupBy: unknown key; did you mean 'group_by'?"],
    ),
    "unknown key near nothing": (
        ("  input:", "  xyzzy: 1\n  input:"),
        ["c.yaml:3: butler.xyzzy: unknown key; expected one of repo, input, output, where"],
    ),
    "misspelt required key": (
        ("  input:", "  inputs:"),
        ["c.yaml:3: butler.inputs: unknown key; did you mean 'input'?"],
    ),
    "key of another mapping": (
        ('"#step1"}', '"#step1", size: 100}'),
        ["c.yaml:8: steps.step1.size: unknown key here; expected it in `steps.NAME.group_by`"],
    ),
    "BPS key outside of bps": (
        ('"#step1"}', '"#step1", requestMemory: 4096}'),
        [
            (
                "c.yaml:8: steps.step1.requestMemory: unknown key here, but one of BPS; "
                "expected it in `bps: {requestMemory: ...}`"
            )
        ],
    ),
    "missing key": (
        ("  output: u/me/mini\n", ""),
        ["c.yaml:2: butler.output: is missing; expected text: Collection that the campaign makes"],
    ),
    "setting of another action": (
        ('"#step1"}', '"#step1", rules: [{name: oom, action: retry, factor: 2.0}]}'),
        [
            (
                "c.yaml:8: steps.step1.rules[0]: has `factor`, which `action: retry` does not use; "
                "expected it with `action: more-memory`"
            )
        ],
    ),
    "misspelt action": (
        ('"#step1"}', '"#step1", rules: [{name: oom, action: more_memory}]}'),
        [
            (
                "c.yaml:8: steps.step1.rules[0].action: is the text 'more_memory'; expected retry or restart or rescue "
                "or more-memory or split or accept or hold or stop-step or fail; did you mean 'more-memory'?"
            )
        ],
    ),
    "number for text": (
        ("campaign: mini", "campaign: mini\nstack: {version: 1.10}"),
        ['c.yaml:2: stack.version: is the number 1.1 (written 1.10; in quotes it is text: "1.10"); expected text'],
    ),
    "yes for text": (
        ("campaign: mini", "campaign: mini\nticket: no"),
        ['c.yaml:2: ticket: is false (written no; in quotes it is text: "no"); expected text'],
    ),
    "text for a number": (
        ('"#step1"}', '"#step1", scouts: "2"}'),
        [
            (
                "c.yaml:8: steps.step1.scouts: is the text '2' (write it without quotes); "
                "expected a whole number, at least 0"
            ),
        ],
    ),
    "exponent": (
        ('"#step1"}', '"#step1", group_by: {dimension: visit, max_quanta: 1e5}}'),
        [
            (
                "c.yaml:8: steps.step1.group_by.max_quanta: is the text '1e5' (YAML takes it for text: write 100000); "
                "expected a whole number, at least 1"
            )
        ],
    ),
    "number out of range": (
        ("sites: local", "sites: local\ndefaults: {accept: {quanta: 95}}"),
        ["c.yaml:7: defaults.accept.quanta: is the number 95; expected a number, at least 0, at most 1"],
    ),
    "number for a mapping": (
        ("sites: local", "sites: local\ndefaults: {retry: 2}"),
        ["c.yaml:7: defaults.retry: is the number 2; expected a mapping of max"],
    ),
    "word that is not a choice": (
        ('"#step1"}', '"#step1", gate: signoff}'),
        ["c.yaml:8: steps.step1.gate: is the text 'signoff'; expected sign-off; did you mean 'sign-off'?"],
    ),
    "empty group_by": (
        ('"#step1"}', '"#step1", group_by: }'),
        [
            (
                "c.yaml:8: steps.step1.group_by: is empty; "
                "expected a mapping of dimension, dataset, values, size, count, max_quanta, or no such key at all"
            )
        ],
    ),
    "group_by without dimension": (
        ('"#step1"}', '"#step1", group_by: {}}'),
        [
            (
                "c.yaml:8: steps.step1.group_by.dimension: is missing; "
                "expected text: Butler dimension whose values are shared out to groups"
            )
        ],
    ),
    "size and count": (
        ('"#step1"}', '"#step1", group_by: {dimension: visit, size: 3, count: 2}}'),
        ["c.yaml:8: steps.step1.group_by: has both `size` and `count`; expected one of them"],
    ),
    "values and dataset": (
        ('"#step1"}', '"#step1", group_by: {dimension: visit, dataset: raw, values: [1]}}'),
        [
            (
                "c.yaml:8: steps.step1.group_by: has both `values` and `dataset`; "
                "expected `values`, or a query for `dataset`"
            ),
        ],
    ),
    "bad values": (
        ('"#step1"}', '"#step1", group_by: {dimension: visit, values: [1..3, 5..2, 4.., 1.5, "a\'b"]}}'),
        [
            "c.yaml:8: steps.step1.group_by.values[1]: the range 5..2 is empty; expected 2..5",
            (
                "c.yaml:8: steps.step1.group_by.values[2]: '4..' is not a range; "
                "expected first and last number, e.g. 100..199"
            ),
            (
                "c.yaml:8: steps.step1.group_by.values[3]: is neither a whole number, nor text, nor a range; "
                "expected e.g. 903334, r or 100..199"
            ),
            (
                'c.yaml:8: steps.step1.group_by.values[4]: "a\'b" cannot be a value in a query; '
                "expected text without quotes, backslashes, $ and braces"
            ),
        ],
    ),
    "misspelt dimension": (
        ('"#step1"}', '"#step1", group_by: {dimension: vist}}'),
        ["c.yaml:8: steps.step1.group_by.dimension: there is no dimension 'vist'; did you mean 'visit'?"],
    ),
    "step that is not there": (
        ("needs: [step1]", "needs: [stepl]"),
        ["c.yaml:9: steps.step2.needs[0]: there is no step 'stepl'; expected one of step1; did you mean 'step1'?"],
    ),
    "circle": (
        ('"#step1"}', '"#step1", needs: [step2]}'),
        ["c.yaml:8: steps.step1.needs: steps need each other in a circle: step1 -> step2 -> step1; expected no circle"],
    ),
    "step that needs itself": (
        ("needs: [step1]", "needs: [step2]"),
        [
            "c.yaml:9: steps.step2.needs: step2 -> step2: it needs itself; expected no circle",
        ],
    ),
    "step twice": (
        ("  step2:", "  step1:"),
        ["c.yaml:9: steps.step1: is there twice: already in line 8"],
    ),
    "name with a hyphen": (
        ("  step2:", "  step-2:"),
        [
            (
                "c.yaml:9: steps.step-2: 'step-2' cannot be the name of a step; "
                "expected a letter, then letters, digits and single underscores, at most 60"
            )
        ],
    ),
    "name that is taken": (
        ("  step2:", "  inputs:"),
        [
            (
                "c.yaml:9: steps.inputs: 'inputs' is a name that cm_dagster uses itself; a step cannot have it; "
                "expected another name"
            )
        ],
    ),
    "name like a group": (
        ("  step2:", "  g0001:"),
        [
            (
                "c.yaml:9: steps.g0001: 'g0001' is a name that cm_dagster uses itself; a step cannot have it; "
                "expected another name"
            )
        ],
    ),
    "site name that is taken": (
        ("sites: local", "sites: {at: 1}"),
        [
            (
                "c.yaml:6: sites.at: 'at' is a name that cm_dagster uses itself; a site cannot have it; "
                "expected another name"
            ),
        ],
    ),
    "two underscores": (
        ("campaign: mini", "campaign: a__b"),
        [
            (
                "c.yaml:1: campaign: 'a__b' cannot be the name of a campaign: Dagster joins names by '__'; "
                "expected a letter, then letters, digits and single underscores, at most 60"
            )
        ],
    ),
    "collection that Butler would take for a pattern": (
        ("[HSC/raw/all]", "[HSC/raw/*]"),
        [
            (
                "c.yaml:3: butler.input[0]: 'HSC/raw/*' cannot be a collection: it holds '*'; "
                "expected the name of one collection, e.g. HSC/raw/all"
            )
        ],
    ),
    "collections that become too long": (
        ("u/me/mini", "u/someone_with_a_name/and_a_long_campaign_name_2026"),
        [
            (
                "c.yaml:4: butler.output: is too long: Butler takes collections of at most 64 characters, and "
                "u/someone_with_a_name/and_a_long_campaign_name_2026/step1/g0000/a99/run has 71; "
                "expected an output of at most 44 characters, or shorter names of steps"
            )
        ],
    ),
    "output that is read": (
        ("u/me/mini", "HSC/raw/all"),
        ["c.yaml:4: butler.output: HSC/raw/all is an input too; expected a collection that is not read"],
    ),
    "pipeline that is a comment": (
        ('  step1: {pipeline: "#step1"}', "  step1:\n    pipeline: #step1"),
        [
            (
                "c.yaml:9: steps.step1.pipeline: is empty "
                "(YAML takes # after a space for a comment: put the value in quotes); expected text"
            )
        ],
    ),
    "two # in a pipeline": (
        ("mini.yaml", "mini.yaml#all"),
        [
            f"c.yaml:{line}: steps.step{step}.pipeline: adds #step{step} to the campaign's pipeline, "
            "which has a # of its own (mini.yaml#all); expected a campaign's pipeline without #"
            for line, step in ((8, 1), (9, 2))
        ],
    ),
    "no steps": (
        ('steps:\n  step1: {pipeline: "#step1"}\n  step2: {pipeline: "#step2", needs: [step1]}\n', ""),
        [
            (
                "c.yaml:1: steps: is missing; expected the campaign's steps; "
                "`cm campaign draft --pipeline 'mini.yaml'` writes those of the pipeline for you to edit"
            )
        ],
    ),
    "stack without its script": (
        ("sites: local", "sites: local\nstack: {setup: script}"),
        ["c.yaml:7: stack: has no `script`, which `setup: script` needs; expected the lines that set the stack up"],
    ),
    "share of nothing": (
        ("sites: local", "sites: {local: 0}"),
        [("c.yaml:6: sites.local: is the number 0; expected a number, more than 0 or a mapping of share, where")],
    ),
    "BPS key misspelt": (
        ("sites: local", "sites: local\nbps: {requestMemry: 4096, finaljob: {requestCpus: 1}}"),
        [
            "c.yaml:7: bps.requestMemry: is not a key of BPS, which would ignore it; did you mean 'requestMemory'?",
            "c.yaml:7: bps.finaljob: is not a key of BPS, which would ignore it; did you mean 'finalJob'?",
        ],
    ),
    "BPS key misspelt in a task's section": (
        ('"#step1"}', '"#step1", bps: {pipetask: {isr: {requestmemory: 1}}}}'),
        [
            (
                "c.yaml:8: steps.step1.bps.pipetask.isr.requestmemory: is not a key of BPS, which would ignore it; "
                "did you mean 'requestMemory'?"
            )
        ],
    ),
    "BPS settings of no task": (
        ("sites: local", "sites: local\nbps: {pipetask: {requestCpus: 4}}"),
        [
            (
                "c.yaml:7: bps.pipetask.requestCpus: is not a mapping; "
                "expected settings under a name: `pipetask: {NAME: {requestCpus: ...}}`"
            )
        ],
    ),
    "BPS key that is ours": (
        ("sites: local", "sites: local\nbps: {payload: {outputRun: u/me/x}}"),
        [
            (
                "c.yaml:7: bps.payload.outputRun: cannot be set here: "
                "cm_dagster names the collections of each attempt: use `output` of `butler`"
            )
        ],
    ),
    "BPS variable that nothing uses": (
        ("sites: local", "sites: local\nbps: {weather: fine}"),
        [
            (
                "c.yaml:7: bps.weather: is not a key of BPS, which would ignore it; "
                "expected a key that BPS knows, or a variable that some value uses as {weather}"
            )
        ],
    ),
    "walltime in base 60": (
        ("sites: local", "sites: local\nbps: {site: {local: {walltime: 10:00:00}}}"),
        [
            (
                "c.yaml:7: bps.site.local.walltime: YAML reads 10:00:00 as the number 36000 (base 60); "
                'expected quotes around it: "10:00:00"'
            )
        ],
    ),
    "octal visit": (
        ('"#step1"}', '"#step1", group_by: {dimension: visit, values: [010]}}'),
        [
            (
                "c.yaml:8: steps.step1.group_by.values[0]: YAML reads 010 as the octal number 8; "
                'expected 10, or quotes around it: "010"'
            )
        ],
    ),
    "date": (
        ("campaign: mini", "campaign: mini\ndescription: 2026-01-01"),
        ['c.yaml:2: description: YAML reads 2026-01-01 as a date; expected quotes around it: "2026-01-01"'],
    ),
    "key that is not text": (
        ("campaign: mini", "campaign: mini\non: 1"),
        ['c.yaml:2: on: this key is not text; expected a name; in quotes if it is meant so: "on"'],
    ),
    "YAML tag": (
        ("campaign: mini", "campaign: mini\ndescription: !!python/name:os.system"),
        ["c.yaml:2: description: the YAML tag !!python/name:os.system is not allowed; expected plain YAML"],
    ),
    "YAML: two colons": (
        ("campaign: mini", "campaign: mini: x"),
        [
            (
                "c.yaml:1: not YAML: mapping values are not allowed here; expected one `key: value` a line, "
                "keys of a mapping under each other, and quotes around a value with ': ' in it"
            )
        ],
    ),
    "YAML: tab": (
        ("  input:", "\tinput:"),
        [
            (
                "c.yaml:3: not YAML: found character '\\t' that cannot start any token; "
                "expected spaces, not tabs, before a key"
            )
        ],
    ),
    "YAML: # in a flow mapping": (
        ('{pipeline: "#step1"}', "{pipeline: #step1}"),
        [
            (
                "c.yaml:9: not YAML: expected ',' or '}', but got ':' (while parsing a flow mapping, begun in line 8); "
                'expected quotes around a value that begins with #, e.g. pipeline: "#step1"'
            )
        ],
    ),
}

PREDICATES = {
    'visit = "1"': "holds double quotes, which BPS removes; expected single quotes around text: instrument='HSC'",
    "instrument='HSC": "has a single quote that is not closed: ...nstrument='HSC; expected a closing quote",
    "(visit = 1": "has a ( that is not closed: (visit = 1; expected as many ( as )",
    "visit = 1)": "has a ) that was never opened: visit = 1); expected as many ( as )",
    "visit == 1": (
        "is not a predicate that Butler can read: it stumbles at '=' in visit == 1; expected e.g. visit IN (1..5)"
    ),
    "visit = 1 AND": "is not a predicate that Butler can read: it ends too early; expected e.g. visit IN (1..5)",
    "visit > 3 && tract = 1": (
        "is not a predicate that Butler can read: it stumbles at '&' in visit > 3 && tract = 1; "
        "expected e.g. visit IN (1..5)"
    ),
    "vist = 1": "uses the unknown name vist; did you mean 'visit'?",
    "visit.exposure_tme > 30": "uses the unknown name visit.exposure_tme; did you mean 'visit.exposure_time'?",
    "visit = :night": "has a placeholder, :night, which nothing fills in; expected the value itself",
    "skymap = '${SKYMAP}'": "holds a $, which BPS takes for an environment variable; expected the value itself",
    "visit IN {visits}": "holds braces, which BPS takes for a variable; expected the value itself",
    "": "is empty; expected a predicate such as visit > 100, or no `where` at all",
    "  ": "is blank; expected a predicate such as visit > 100, or nothing at all",
}

GOOD_PREDICATES = [
    "instrument='HSC' AND skymap='hsc_rings_v1'",
    "visit IN (1..5, 7) AND NOT (detector = 9)",
    "exposure.observation_type = 'science' AND day_obs > 20260101",
    "visit.timespan.begin > T'2026-01-01' OR band IN ('g', 'r')",
    "own_dimension_of_a_repository = 3 AND raw.ingest_date > T'2026-01-01'",
    "physical_filter = 'it is (not closed'",
]


@pytest.mark.parametrize("case", CASES)
def test_message(case: str, campaign_messages: Messages) -> None:
    (old, new), expected = CASES[case]
    assert old in BASE
    assert campaign_messages(BASE.replace(old, new, 1)) == expected


def test_base_file_is_right(campaign_messages: Messages) -> None:
    assert campaign_messages(BASE) == []


@pytest.mark.parametrize("predicate", PREDICATES)
def test_bad_predicate(predicate: str, campaign_messages: Messages) -> None:
    quoted = "'" + predicate.replace("'", "''") + "'"
    text = BASE.replace("  output:", f"  where: {quoted}\n  output:")
    assert campaign_messages(text) == [f"c.yaml:4: butler.where: {PREDICATES[predicate]}"]


@pytest.mark.parametrize("predicate", GOOD_PREDICATES)
def test_good_predicate(predicate: str, campaign_messages: Messages) -> None:
    quoted = "'" + predicate.replace("'", "''") + "'"
    assert campaign_messages(BASE.replace("  output:", f"  where: {quoted}\n  output:")) == []


def test_all_faults_come_at_once_in_the_order_of_lines(campaign_messages: Messages) -> None:
    text = (
        BASE.replace("mini\n", "mi-ni\n", 1).replace("sites: local", "sites: 3").replace("needs: [step1]", "needs: [x]")
    )
    messages = campaign_messages(text.replace('"#step1"}', '"#step1", scouts: -1, bps: {queu: x}}'))
    assert [message.split(": ")[:2] for message in messages] == [
        ["c.yaml:1", "campaign"],
        ["c.yaml:6", "sites"],
        ["c.yaml:8", "steps.step1.bps.queu"],
        ["c.yaml:8", "steps.step1.scouts"],
        ["c.yaml:9", "steps.step2.needs[0]"],
    ]


SITE = "{butler: /repo, submit_area: /submit, wms: {service: a.B, compute_site: x}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            f"sites: {{a: {SITE}}}, b: {SITE}}}}}",
            ["s.yaml:1: exactly one site must be the home site, but none says `home: true`"],
        ),
        (
            f"sites: {{a: {SITE}, home: true}}, b: {SITE}, home: true}}}}",
            ["s.yaml:1: exactly one site must be the home site, but a and b say `home: true`"],
        ),
        (
            f"sites:\n  a: {SITE.replace('/submit', 'submit')}, tick: 0}}",
            [
                "s.yaml:2: sites.a.submit_area: 'submit' is not an absolute path; expected e.g. /data/cm/submit",
                "s.yaml:2: sites.a.tick: is the number 0; expected a number, more than 0",
            ],
        ),
        (
            f"sites:\n  a: {SITE.replace('a.B', 'B')}, env: {{A-B: x}}, bps: {{computeSite: y}}}}",
            [
                (
                    "s.yaml:2: sites.a.bps.computeSite: cannot be set here: "
                    "cm_dagster sets it: use the site's `wms: {compute_site: ...}`"
                ),
                (
                    "s.yaml:2: sites.a.wms.service: 'B' cannot be a class; "
                    "expected module and class, e.g. lsst.ctrl.bps.panda.PanDAService"
                ),
                "s.yaml:2: sites.a.env.A-B: 'A-B' cannot be an environment variable; expected e.g. OMP_NUM_THREADS",
            ],
        ),
        ("sites: {}", ["s.yaml:1: sites: is an empty mapping; expected a mapping"]),
    ],
)
def test_site_file_message(text: str, expected: list[str], site_messages: Messages) -> None:
    assert site_messages(text) == expected
