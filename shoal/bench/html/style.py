"""The page's style: readable at any width, light and dark by what the reader's system prefers."""

_LIGHT = ("#2563eb", "#ea580c", "#16a34a", "#9333ea", "#dc2626", "#0891b2", "#ca8a04", "#64748b")
_DARK = ("#60a5fa", "#fb923c", "#4ade80", "#c084fc", "#f87171", "#22d3ee", "#facc15", "#94a3b8")


def _colours(values: tuple[str, ...]) -> str:
    return "".join(f"--c{i}:{value};" for i, value in enumerate(values))


def _classes() -> str:
    return "".join(
        f".s{i}{{stroke:var(--c{i})}}.f{i}{{fill:var(--c{i})}}"
        f".k{i}{{border-color:var(--c{i});background:var(--c{i})}}"
        for i in range(len(_LIGHT))
    )


_COLOURS = f"""
:root{{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--ink:#16202e;--dim:#5b6779;
--line:#e1e6ed;--soft:#eef2f7;
--bad:#b91c1c;--badsoft:#fef2f2;--good:#15803d;{_colours(_LIGHT)}}}
@media (prefers-color-scheme:dark){{:root{{
--page:#0d1219;--card:#151c26;--ink:#e7edf5;--dim:#94a2b6;
--line:#263142;--soft:#1b2431;--bad:#fca5a5;--badsoft:#3a1518;--good:#86efac;{_colours(_DARK)}}}}}
"""
_RULES = """
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1240px;margin:0 auto;padding:36px 24px 56px}
header p{margin:4px 0 0;color:var(--dim)}
h1{font-size:26px;line-height:1.25;margin:0;letter-spacing:-.01em}
h2{font-size:16px;margin:0 0 2px}
section>p{margin:0 0 14px;color:var(--dim);font-size:13.5px}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:20px 22px;
min-width:0}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(145px,1fr));gap:14px;margin:24px 0}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:14px 18px}
.card b{display:block;font-size:25px;font-weight:650;letter-spacing:-.02em;
font-variant-numeric:tabular-nums;white-space:nowrap}
.card b small{font-size:14px;font-weight:500;color:var(--dim);letter-spacing:0}
.card span{color:var(--dim);font-size:13px}
.card.bad b{color:var(--bad)}
.grid2{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr));gap:18px;
margin-bottom:18px}
.grid2 section:last-child:nth-child(odd){grid-column:1/-1}
.grid2 section:last-child:nth-child(odd) svg{max-width:620px}
.alert{border:1px solid var(--bad);background:var(--badsoft);color:var(--bad);border-radius:12px;
padding:12px 18px;margin:20px 0 0}
.answer{border-left:4px solid var(--c0);background:var(--card);border-radius:4px 12px 12px 4px;
padding:12px 18px;margin:20px 0 0;font-size:17px}
.wide{margin-bottom:18px}
svg{display:block;width:100%;height:auto;overflow:visible}
svg text{fill:var(--dim);font-size:13px;font-variant-numeric:tabular-nums}
svg .xtick,svg .xname,svg .yname{text-anchor:middle}
svg .ytick,svg .name{text-anchor:end}
svg .name{fill:var(--ink)}
svg .grid{stroke:var(--line)}svg .tick,svg .axis{stroke:var(--dim)}
svg .rule{stroke:var(--dim);stroke-dasharray:2 4}
svg polyline{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
svg polyline.dashed{stroke-dasharray:6 5}
svg rect{stroke:var(--card);stroke-width:1}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:4px 18px;margin:10px 0 0;padding:0;
color:var(--dim);font-size:13px}
.legend i{display:inline-block;width:16px;height:0;border-width:3px 0 0;
border-style:solid;margin-right:7px;vertical-align:middle}
.legend i.dashed{border-top-style:dashed;background:none}
.legend i.box{height:11px;width:11px;border:0;border-radius:3px}
.legend i.dots{height:9px;width:9px;border:0;border-radius:50%}
.scroll{overflow-x:auto}.codes{margin:12px 0 0;color:var(--bad);font-size:13.5px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:14px}
th,td{text-align:right;padding:7px 10px;border-bottom:1px solid var(--line);white-space:nowrap}
th{color:var(--dim);font-weight:500;font-size:13px}
th:first-child,td:first-child{text-align:left;padding-left:0}
tbody tr:last-child td{border-bottom:0}
td.bad{color:var(--bad)}td.good{color:var(--good)}
dl{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:6px 22px;margin:0;
font-size:14px}
dt{color:var(--dim)}dd{margin:0;overflow-wrap:anywhere}
code{font:13px/1.5 ui-monospace,"DejaVu Sans Mono",Menlo,monospace;background:var(--soft);
padding:2px 6px;border-radius:5px}
footer{color:var(--dim);font-size:13px;margin-top:26px}
@media (max-width:560px){main{padding:22px 14px 40px}section{padding:16px 14px}
.card b{font-size:21px}svg text{font-size:17px}
dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:8px}}
@media print{body{background:#fff}section,.card{break-inside:avoid}}
"""
STYLE = _COLOURS + _RULES + _classes()
