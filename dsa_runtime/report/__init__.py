"""What the commands show: tables on the terminal, the demo's film and chart, the numbers behind them.

Pictures are drawn with Pillow alone. A plotting library would be the heaviest dependency of the base install
for one chart, and the film needs Pillow, its fonts and its colours anyway.
"""
