#!/usr/bin/env python3
"""What 1,000, 100,000 and 1,000,000 sessions a day take: places, pool, line, nodes, load of the API server, and money.

    benches/scaling/scaling.py [--write]      --write: puts them into docs/scaling.md

Two tables: what the formulas of queues.py say for the hour of the peak, and a whole day, simulated visitor by visitor with
those places and that pool. The same seed, so the same numbers, always. Standard library only. docs/scaling.md explains them.
"""

import heapq
import math
import pathlib
import random
import sys

import queues

SECONDS_A_DAY = 86_400
SEED = 20_260_101

# --- measured ---------------------------------------------------------------------------------------
# On one machine of 2 cores; docs/scaling.md says where each comes from.

START_SECONDS = 3.0  # a pod with its init container, created to Running, on a node with more to do; a quiet one takes 0.9
STARTS_PER_CORE = 0.8  # pods a second, when many are started at once
API_WRITES_PER_POD = 15.3  # creates, patches and deletes that the API server counted; 8.8 of them are Events
WATCH_EVENTS_PER_POD = 7.5
WATCH_EVENT_BYTES = 6_500  # as JSON, which is what kube-rs reads
IDLE_CPU = 0.025  # cores of an idle gVisor sandbox (systrap)
POD_MEMORY_MIB = 128 + 48  # its limit, and RuntimeClass overhead: 35 MiB were measured

# --- assumed ----------------------------------------------------------------------------------------

SESSION_MEAN_SECONDS = 8 * 60  # lognormal, sigma 1, cut at 30 min, which is what this mean is after the cut
SESSION_SIGMA = 1.0
SESSION_MOST_SECONDS = 30 * 60
DETACHED_SECONDS = 30  # of the 60 s that a place is kept for a visitor who has left; half of them say so
PEAK = 3.0  # arrivals in the busiest hour, against the day's mean
CPU_REQUEST = 0.52  # of the template `base`, whose request is its limit, with gVisor's own
ACTIVE_SHARE = 0.2  # sessions whose program computes right now
ACTIVE_CPU = 0.25  # and what it takes, of a core
REFUSED = 0.001  # share of visitors who may find no place, at the peak
COLD = 0.01  # share of visitors who may find the pool empty, at the peak
GATEWAY_SESSIONS = 1_000  # of one gateway, with room for one that is lost
LEAST_GATEWAYS = 2
NODE_CORES, NODE_MEMORY_MIB, NODE_PODS = 8, 30 * 1024, 100
NODE_USABLE_CPU = 0.8
NODE_PRICE = 0.40  # an hour
CONTROL_PLANE_PRICE = 0.10
GATEWAY_PRICE = 0.03  # half a core and 512 MiB
CELL_SANDBOXES = 3_000  # of one namespace: a threshold that Kubernetes' scalability group publishes
CLUSTER_NODES = 1_000  # a fifth of the 5,000 that it publishes

SCALES = (1_000, 100_000, 1_000_000)


def arrivals_at(a_day, second):
    """Visitors a second at this time of day: a cosine whose peak is PEAK times the mean, raised to be flat at night."""
    power = PEAK_POWER
    return a_day / SECONDS_A_DAY * PEAK * ((1 + math.cos(2 * math.pi * (second / SECONDS_A_DAY - 0.625))) / 2) ** power


def power_for(peak):
    """The power of (1 + cos) / 2 whose mean over a day is 1 / peak."""
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        mean = sum(((1 + math.cos(2 * math.pi * n / 1440)) / 2) ** middle for n in range(1440)) / 1440
        low, high = (middle, high) if mean > 1 / peak else (low, middle)
    return low


PEAK_POWER = power_for(PEAK)


def session_median():
    """The median before the cut that makes the mean after it SESSION_MEAN_SECONDS."""
    def cut_mean(median):
        mu, sigma, most = math.log(median), SESSION_SIGMA, SESSION_MOST_SECONDS
        normal = lambda x: (1 + math.erf(x / math.sqrt(2))) / 2  # noqa: E731
        at = (math.log(most) - mu) / sigma
        return math.exp(mu + sigma**2 / 2) * normal(at - sigma) + most * (1 - normal(at))
    low, high = 1.0, float(SESSION_MOST_SECONDS)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if cut_mean(middle) < SESSION_MEAN_SECONDS else (low, middle)
    return low


class Plan:
    """What the formulas ask for, at `a_day` sessions."""

    def __init__(self, a_day):
        self.a_day = a_day
        self.arrivals = a_day / SECONDS_A_DAY * PEAK
        self.holding = SESSION_MEAN_SECONDS + DETACHED_SECONDS
        self.sessions = self.arrivals * self.holding  # Little's law
        self.places = queues.places_for(self.sessions, REFUSED)
        self.pool = queues.pool_for(self.arrivals, START_SECONDS, COLD)
        self.sandboxes = self.places + self.pool
        cpu = self.sandboxes * IDLE_CPU + self.places * ACTIVE_SHARE * ACTIVE_CPU
        # Starts may take half of a node, beside those who work.
        self.by = {
            "CPU": cpu / (NODE_CORES * NODE_USABLE_CPU),
            "memory": self.sandboxes * POD_MEMORY_MIB / NODE_MEMORY_MIB,
            "pods": self.sandboxes / NODE_PODS,
            "starts": self.arrivals / (NODE_CORES * STARTS_PER_CORE / 2),
        }
        self.nodes_by_request = max(2, math.ceil(self.sandboxes * CPU_REQUEST / NODE_CORES) + 1)
        self.bound = max(self.by, key=self.by.get)
        self.nodes = max(2, math.ceil(self.by[self.bound]) + 1)  # one may be lost
        self.gateways = max(LEAST_GATEWAYS, math.ceil(self.sessions / GATEWAY_SESSIONS) + 1)
        self.own_pool = queues.pool_for(self.arrivals / self.gateways, START_SECONDS, COLD)
        self.cells = math.ceil(self.sandboxes / CELL_SANDBOXES)
        self.clusters = math.ceil(self.nodes / CLUSTER_NODES)
        self.api_writes = self.arrivals * API_WRITES_PER_POD
        events = self.arrivals * WATCH_EVENTS_PER_POD
        self.watch_all = events * self.gateways * WATCH_EVENT_BYTES / 1e6
        in_cell = max(LEAST_GATEWAYS, math.ceil(self.gateways / self.cells))
        self.watch_cells = events * in_cell * WATCH_EVENT_BYTES / 1e6

    def session_hours(self):
        return self.a_day * SESSION_MEAN_SECONDS / 3600

    def cost(self, node_hours):
        """Of 1,000 session hours, when this many node hours are paid in a day."""
        fixed = 24 * (CONTROL_PLANE_PRICE * self.clusters + GATEWAY_PRICE * self.gateways)
        return (node_hours * NODE_PRICE + fixed) / self.session_hours() * 1000


class Day:
    """A day of Plan's visitors, one after another: who gets a place, who finds a warm sandbox, who waits."""

    def __init__(self, plan, visitors=None, seed=SEED):
        self.plan = plan
        self.chance = random.Random(seed)
        self.median = session_median()
        count = visitors or plan.a_day
        self.visitors = self.cold = self.waited = 0
        self.longest_wait = self.seconds = 0.0
        self.most = 0
        self.hours = [0.0] * 24  # session seconds, by the hour of arrival
        self.run(self.times(count))

    def times(self, count):
        """Arrivals of a Poisson process whose rate follows the day: those of the peak's rate, thinned."""
        peak = count / SECONDS_A_DAY * PEAK
        now = 0.0
        while True:
            now += self.chance.expovariate(peak)
            if now >= SECONDS_A_DAY:
                return
            if self.chance.random() * peak < arrivals_at(count, now):
                yield now

    def length(self):
        return min(SESSION_MOST_SECONDS, self.chance.lognormvariate(math.log(self.median), SESSION_SIGMA))

    def run(self, times):
        plan = self.plan
        places, ready = [], [0.0] * plan.pool  # when each taken place is free; when each sandbox of the pool is there
        for now in times:
            self.visitors += 1
            while places and places[0] <= now:
                heapq.heappop(places)
            begins = now
            if len(places) >= plan.places:  # in line, for the place that is free next
                begins = heapq.heappop(places)
                self.waited += 1
            warm = heapq.heappop(ready)
            if warm > begins:
                self.cold += 1
                begins = warm
            heapq.heappush(ready, begins + START_SECONDS)
            self.longest_wait = max(self.longest_wait, begins - now)
            length = self.length()
            heapq.heappush(places, begins + length + DETACHED_SECONDS)
            self.seconds += length
            self.hours[int(now // 3600)] += length + DETACHED_SECONDS
            self.most = max(self.most, len(places))

    def node_hours(self):
        """If nodes follow the sessions, hour by hour, with a fifth to spare."""
        each = self.plan.places / max(1, self.plan.nodes - 1)
        return sum(max(2, math.ceil(1.2 * seconds / 3600 / each) + 1) for seconds in self.hours)


def table(columns, rows, markdown):
    if markdown:
        lines = ["| " + " | ".join(columns) + " |", "|" + "---|" + "---:|" * (len(columns) - 1)]
        return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
    widths = [max(len(row[n]) for row in [columns, *rows]) for n in range(len(columns))]
    return "\n".join("  ".join(cell.ljust(width) if n == 0 else cell.rjust(width) for n, (cell, width) in enumerate(zip(row, widths)))
                     for row in [columns, *rows])


DOCUMENT = pathlib.Path(__file__).resolve().parents[2] / "docs" / "scaling.md"


def main():
    if sys.argv[1:] != ["--write"]:
        print("\n\n".join(tables(markdown=False)))
        return
    text = DOCUMENT.read_text()
    before, rest = text.split("<!-- tables -->\n")
    _, after = rest.split("<!-- end -->\n")
    DOCUMENT.write_text(before + "<!-- tables -->\n\n" + "\n\n".join(tables(markdown=True)) + "\n\n<!-- end -->\n" + after)


def tables(markdown):
    plans = [Plan(a_day) for a_day in SCALES]
    days = [Day(plan) for plan in plans]

    def row(name, value, of=plans):
        return [name, *(value(each) for each in of)]

    columns = ["sessions a day", *(f"{a_day:,}" for a_day in SCALES)]
    yield table(columns, [
        row("arrivals a second, in the peak's hour", lambda p: f"{p.arrivals:.2f}"),
        row("sessions at once, then", lambda p: f"{p.sessions:,.0f}"),
        row(f"places (`max_sandboxes`, less the pool): {REFUSED:.1%} find none", lambda p: f"{p.places:,}"),
        row(f"pool: {COLD:.0%} find it empty", lambda p: f"{p.pool:,}"),
        row("the same, if each gateway has its own (as it is)", lambda p: f"{p.gateways} × {p.own_pool}"),
        row("nodes of 8 cores, one to spare", lambda p: f"{p.nodes:,}"),
        row("what decides their number", lambda p: p.bound),
        row("*nodes, if half a core is requested for each*", lambda p: f"{p.nodes_by_request:,}"),
        row("gateways, one to spare", lambda p: f"{p.gateways:,}"),
        row("namespaces of 3,000 sandboxes", lambda p: f"{p.cells:,}"),
        row("writes a second to API servers", lambda p: f"{p.api_writes:,.1f}"),
        row("watches, MB/s: every gateway sees every pod", lambda p: f"{p.watch_all:,.2f}"),
        row("watches, MB/s: a gateway sees its namespace", lambda p: f"{p.watch_cells:,.2f}"),
        row("cost of 1,000 session hours, nodes for the peak all day", lambda p: f"${p.cost(24 * p.nodes):,.2f}"),
    ], markdown)
    yield table(["a simulated day", *columns[1:]], [
        row("visitors", lambda d: f"{d.visitors:,}", days),
        row("most sessions at once", lambda d: f"{d.most:,}", days),
        row("mean sessions at once", lambda d: f"{d.seconds / SECONDS_A_DAY:,.1f}", days),
        row("found the pool empty", lambda d: f"{d.cold / d.visitors:.2%}", days),
        row("waited in line for a place", lambda d: f"{d.waited / d.visitors:.2%}", days),
        row("longest wait, s", lambda d: f"{d.longest_wait:.1f}", days),
        row("cost of 1,000 session hours, nodes follow the hour", lambda d: f"${d.plan.cost(d.node_hours()):,.2f}", days),
    ], markdown)
    bursts = ((30, 5), (30, 30), (300, 30), (300, 300))
    yield table(["a class begins: all at once", *(f"{visitors} visitors, pool {pool}" for visitors, pool in bursts)], [
        [f"the last has a shell after, s, on {nodes} nodes", *(
            f"{queues.simulate_burst(visitors, pool, nodes * NODE_CORES * STARTS_PER_CORE):.0f}" for visitors, pool in bursts)]
        for nodes in (2, 10)
    ], markdown)


if __name__ == "__main__":
    main()
