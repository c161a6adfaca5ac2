def draw(runs, versions): return "<svg/>"
