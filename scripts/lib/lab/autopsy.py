"""What can be seen of a Whimbrel from outside when a case has failed, for whoever looks for the reason."""

from .progress import LabFailed

# Each thread: its name, state, and where in the host's kernel it waits.
THREADS = """
for task in /proc/$(cat {number})/task/*; do
    echo "$(cat $task/comm) $(grep State: $task/status) $(grep ctxt $task/status | tr -s '\\n\\t' ' ')"
    cat $task/syscall $task/stack
done
"""
# What KVM does for the vCPUs in a moment: the places at which they leave the guest, and why.
EXITS = """
cd /sys/kernel/tracing && { [ -e trace ] || mount -t tracefs tracefs . && cd .; }
cd /sys/kernel/tracing
echo >trace
for task in /proc/$(cat {number})/task/*; do case $(cat $task/comm) in vcpu*) basename $task ;; esac; done >set_event_pid
for event in kvm_exit kvm_page_fault kvm_inj_virq; do echo 1 >events/kvm/$event/enable; done
usleep 100000
for event in kvm_exit kvm_page_fault kvm_inj_virq; do echo 0 >events/kvm/$event/enable; done
echo >set_event_pid
grep -v '^#' trace | tail -n 400
"""
# A line on a guest's console takes milliseconds.
INSIDE_SECONDS = 60
LINES = ("info status", "info cpus", "info network", "info block", "info migrate -a")


def autopsy(process):
    """Text about a process that still runs; nothing if it has ended."""
    if process.job.status is not None:
        return ""
    parts = [f"# host {process.host.name}: {process.command}"]
    for line in LINES:
        parts += [f"## {line}", _try(lambda line=line: process.qmp.execute("human-monitor-command", 10, command_line=line))]
    for title, script in (("threads", THREADS), ("exits", EXITS)):
        order = script.replace("{number}", process.number)
        parts += [f"## {title}", _try(lambda order=order: process.host.hand.run(order, seconds=180).output)]
    return "\n".join(parts) + "\n"


def look_from_inside(guest):
    """Has the guest's init tell of its tasks and timers on the console, if it still reads there."""
    try:
        begun = len(guest.console.lines())
        guest.console.send("autopsy\n")
        guest.console.line(lambda line: line == "autopsy: end", INSIDE_SECONDS, "the guest to look at itself", begun, heed=False)
    except (LabFailed, OSError):
        # What it could say is on its console.
        pass


def _try(look):
    try:
        return look()
    except (LabFailed, OSError) as why:
        return f"nothing: {why}"
