"""The CSS of the pages: one column, quiet colours that follow the reader's choice of light or dark, and a colour for k."""

STYLE = """
:root {
  --paper: #fbfaf7; --card: #ffffff; --ink: #1e2328; --soft: #59616a; --hair: #dddbd4; --k: #1a7a4c; --k-soft: #cfe5d8;
  --along: #2f66ab; --across: #b9581b; --other: #8a4f9e;
  --serif: "Iowan Old Style", "Palatino Linotype", Palatino, "URW Palladio L", P052, Georgia, "DejaVu Serif", serif;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", Arial, sans-serif;
  --mono: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15181b; --card: #1c2024; --ink: #e3e6e8; --soft: #9ea7af; --hair: #30363c; --k: #67c894; --k-soft: #274536;
    --along: #7ca9e6; --across: #e59a63; --other: #c792d8;
  }
  img { filter: brightness(0.9); }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.55 var(--sans); }
main { max-width: 62rem; margin: 0 auto; padding: 3rem 1.25rem 4rem; }
header { margin-bottom: 2.5rem; }
h1, h2, .k-value { font-family: var(--serif); font-weight: 500; line-height: 1.15; text-wrap: balance; }
h1 { font-size: clamp(2rem, 6vw, 3rem); margin: 0.2rem 0 0.6rem; overflow-wrap: anywhere; }
h2 { font-size: 1.6rem; margin: 0 0 1.25rem; }
h3 { font-size: 1rem; margin: 2rem 0 0.75rem; }
p { margin: 0 0 1rem; max-width: 44rem; }
.kicker { color: var(--soft); font-size: 0.85rem; margin: 0; }
.lead { font-family: var(--serif); font-size: 1.2rem; color: var(--soft); margin: 0; overflow-wrap: anywhere; }
section { padding-top: 2.5rem; margin-top: 2.75rem; border-top: 1px solid var(--hair); }
.note, figcaption { color: var(--soft); font-size: 0.9rem; line-height: 1.5; }
figcaption { margin-top: 0.6rem; max-width: 44rem; overflow-wrap: anywhere; }
figure { margin: 0 0 1.75rem; min-width: 0; }
code { font-family: var(--mono); font-size: 0.88em; overflow-wrap: anywhere; }
data { font-variant-numeric: tabular-nums; white-space: nowrap; }

.hero { display: grid; grid-template-columns: minmax(0, 1fr); gap: 2rem 3.5rem; align-items: end; }
.k-value { font-size: clamp(3.2rem, 15vw, 5.5rem); color: var(--k); margin: 0; letter-spacing: -0.02em;
  line-height: 1; white-space: nowrap; }
.k-long { font-size: clamp(2rem, 9vw, 3.3rem); }
.k-value i { padding-right: 0.06em; }
.k-value data { font-variant-numeric: lining-nums; }
.k-said { color: var(--soft); margin: 0.75rem 0 1.25rem; }
.k-scale { display: block; width: 100%; overflow: visible; max-width: 36rem; }
.k-scale text { fill: var(--soft); font-size: 0.85rem; }
.track { stroke: var(--hair); stroke-width: 4; stroke-linecap: round; }
.notch { stroke: var(--soft); stroke-width: 1; }
.way { stroke: var(--k); stroke-width: 4; opacity: 0.45; }
.start { fill: var(--paper); stroke: var(--k); stroke-width: 2; }
.now { fill: var(--k); stroke: var(--paper); stroke-width: 2; }

dl { margin: 0; display: grid; grid-template-columns: minmax(0, 1fr); }
dl > div { display: grid; grid-template-columns: 7.5rem minmax(0, 1fr); gap: 0 1rem; padding: 0.5rem 0; }
dl > div + div { border-top: 1px solid var(--hair); }
dt { color: var(--soft); font-size: 0.9rem; padding-top: 0.05rem; }
dd { margin: 0; overflow-wrap: anywhere; }
dd small, th small { color: var(--soft); display: block; font-size: 0.85rem; }

.scroll { overflow-x: auto; background:
  linear-gradient(to right, var(--paper) 40%, transparent) 0 0 / 2.5rem 100% no-repeat local,
  linear-gradient(to left, var(--paper) 40%, transparent) 100% 0 / 2.5rem 100% no-repeat local,
  linear-gradient(to right, var(--hair), transparent) 0 0 / 0.75rem 100% no-repeat scroll,
  linear-gradient(to left, var(--hair), transparent) 100% 0 / 0.75rem 100% no-repeat scroll; }
.scroll:focus-visible { outline: 2px solid var(--k); outline-offset: 4px; }
table { border-collapse: collapse; font-size: 0.92rem; min-width: 60%; }
th, td { text-align: left; padding: 0.42rem 1rem 0.42rem 0; vertical-align: baseline; font-weight: 400; }
td { font-variant-numeric: tabular-nums; min-width: 4.5rem; }
td:last-child { padding-right: 0; }
thead th { color: var(--soft); font-size: 0.85rem; border-bottom: 1px solid var(--soft); vertical-align: bottom; }
tbody tr + tr > * { border-top: 1px solid var(--hair); }
tbody th { min-width: 6rem; }
.best > *, td strong { font-weight: 600; }
details { margin-top: 1.25rem; }
summary { cursor: pointer; color: var(--soft); font-size: 0.95rem; padding: 0.35rem 0; }
summary:hover { color: var(--ink); }
details > :nth-child(2) { margin-top: 0.75rem; }

.chart { margin-top: 0.25rem; }
.plot { padding: 0.5rem 0.75rem 1.9rem 3.4rem; }
.plot.wide { padding-left: 5.4rem; }
.plot > svg { display: block; width: 100%; height: 17rem; overflow: visible; }
.plot text { fill: var(--soft); font-size: 0.8rem; font-variant-numeric: tabular-nums; }
.axis { text-align: right; color: var(--soft); font-size: 0.8rem; margin: 0 0.75rem 0 0; max-width: none; }
.grid { stroke: var(--hair); stroke-width: 1; }
.line { fill: none; stroke-width: 1.75; stroke-linejoin: round; stroke-linecap: round; }
.legend { list-style: none; margin: 0 0 0.5rem; padding: 0; display: flex; flex-wrap: wrap;
  gap: 0.25rem 1.5rem; font-size: 0.9rem; }
.swatch { display: inline-block; width: 1.4rem; vertical-align: 0.28em; margin-right: 0.5rem; border-top: 2.5px solid; }
.line.ink, .swatch.ink { stroke: var(--ink); border-color: var(--ink); }
.line.along, .swatch.along { stroke: var(--along); border-color: var(--along); }
.line.across, .swatch.across { stroke: var(--across); border-color: var(--across); }
.line.k, .swatch.k { stroke: var(--k); border-color: var(--k); }
.line.k.faint { opacity: 0.5; } .swatch.k.faint { opacity: 0.5; }
.line.other, .swatch.other { stroke: var(--other); border-color: var(--other); }
.line.other { stroke-dasharray: 6 4; } .swatch.other { border-top-style: dashed; }
.end.ink { fill: var(--ink); } .end.along { fill: var(--along); } .end.across { fill: var(--across); }
.end.k { fill: var(--k); } .end.k.faint { opacity: 0.5; } .end.other { fill: var(--other); }

img { display: block; width: 100%; height: auto; background: #ffffff; border: 1px solid var(--hair); border-radius: 4px; }
img.broad { min-width: 38rem; }
.strip { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.25rem, 1fr)); gap: 1rem; }
.strip figure { margin: 0; }
.strip figcaption { margin-top: 0.3rem; font-size: 0.85rem; }
.samples { display: grid; gap: 1.75rem 2.5rem; grid-template-columns: minmax(0, 1fr); align-items: start; }
.pair { display: grid; gap: 1.25rem 2rem; grid-template-columns: minmax(0, 1fr); }
.side { display: grid; gap: 1.25rem 2.5rem; grid-template-columns: minmax(0, 1fr); }
footer { margin-top: 4rem; padding-top: 1.25rem; border-top: 1px solid var(--hair); color: var(--soft); font-size: 0.85rem; }
@media (min-width: 48rem) {
  main { padding-top: 4.5rem; }
  th, td { padding-right: 1.75rem; }
  .hero { grid-template-columns: minmax(0, 1.15fr) minmax(0, 1fr); }
  .samples { grid-template-columns: minmax(0, 1fr) minmax(0, 1.1fr); }
  .pair, .side { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .samples > :only-child { max-width: 32rem; }
}
@media print { section { break-inside: avoid; } }
"""
