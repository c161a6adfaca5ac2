"""Scenarios 1 to 4 and 7: a guest works, moves, works on, and is shut down in good order."""


def run(bench, mode, loads, moves=1):
    """So many moves in a row, there and back, with these loads."""
    plan = bench.plan()
    for load in loads:
        plan = load.prepare(bench, load.shape(plan))
    guest = bench.guest(plan)
    guest.ready()
    for load in loads:
        load.begin(bench, guest)
    made = []
    for number in range(moves):
        for load in loads:
            load.moving(bench, guest)
        move = guest.move(mode, bench.hosts.a if number % 2 else bench.hosts.b)
        made.append(move)
        # The last to prepare for the move looks at it first: a ping should not count what the others do afterwards.
        for load in reversed(loads):
            load.moved(bench, guest, move)
        bench.accept(guest)
    guest.power_down()
    for load in loads:
        load.ended(bench, guest)
    bench.accept(guest)
    return made
