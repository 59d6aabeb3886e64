"""The service under load: how much it hands on, four answers at once against one, and a conversation across a switch.

    python benchmarks/load.py [--cases ceiling parallel switching] [--rounds 5] [--home DIR] [--json FILE]

Without --cases all three cases are run. Each has a module of its own, which defines what it measures; each starts the
service anew. What the service costs against its worker, at 1, 8 and 32 streams, is in `proxy.py`.
"""

from __future__ import annotations

import ceiling
import parallel
import switching
from rig import Line, foundry, parser, publish

CASES = ("ceiling", "parallel", "switching")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    options.add_argument("--rounds", type=int, default=5, help="of every case, after one for warm-up")
    options.add_argument("--rates", type=int, nargs="+", default=ceiling.RATES, help="tokens/s in sum over all streams")
    options.add_argument("--streams", type=int, default=50, help="of the ceiling")
    options.add_argument("--seconds", type=float, default=5.0, help="that one step of the ceiling takes by its clock")
    options.add_argument("--tokens", type=int, default=256, help="of each long answer in parallel")
    options.add_argument("--words", type=int, default=48, help="of each prompt in parallel")
    options.add_argument("--conversation", type=int, default=1320, help="words of the conversation that is left")
    chosen = options.parse_args()
    lines: list[Line] = []
    raw: dict[str, object] = {}
    with foundry(chosen) as under_test:
        for case in chosen.cases:
            match case:
                case "ceiling":
                    rates = tuple(sorted(chosen.rates))
                    found = ceiling.measure(under_test, rates, chosen.streams, chosen.seconds, chosen.rounds)
                case "parallel":
                    found = parallel.measure(under_test, chosen.model, chosen.rounds, chosen.tokens, chosen.words)
                case _:
                    found = switching.measure(under_test, chosen.model, chosen.rounds, chosen.conversation)
            lines += found[0]
            raw[case] = found[1]
    settings = {name: value for name, value in vars(chosen).items() if name not in ("home", "foundry", "json")}
    publish(lines, settings, raw, chosen.json)


if __name__ == "__main__":
    main()
