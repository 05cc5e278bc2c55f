// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package rows

import (
	"context"
	"fmt"

	"chatrun.dev/operator/test/bench/figures"
)

// figuresOf are the repetitions of rows by their ids.
type figuresOf map[string][]figures.Measured

func (f figuresOf) add(id string, value, floor float64, note string) {
	f[id] = append(f[id], figures.Measured{Value: value, Floor: floor, Note: note})
}

// Scenario measures some rows together.
type Scenario struct {
	Name string
	// Once is of one that takes minutes: it is not repeated as the others are.
	Once bool
	Rows []figures.Row

	run func(context.Context, *World) (figuresOf, error)
}

// Run measures it once. Each of its rows has a figure then.
func (s Scenario) Run(ctx context.Context, w *World) (map[string][]figures.Measured, error) {
	found, err := s.run(ctx, w)
	if err != nil {
		return nil, fmt.Errorf("scenario %s: %w", s.Name, err)
	}
	for _, row := range s.Rows {
		if len(found[row.ID]) == 0 {
			return nil, fmt.Errorf("scenario %s did not measure %s", s.Name, row.ID)
		}
	}
	return found, nil
}

// copier and its kin are floors.
const (
	copier = "a program that copies the same bytes"
	client = "a client that only creates and writes"
)

// Scenarios are all of them, in the order in which they run: the store is filled last.
func Scenarios() []Scenario {
	table := []Scenario{
		{Name: "relay", run: relay, Rows: []figures.Row{
			{ID: "relay-cpu-many", Figure: "CPU of the manager per token relayed to one reader, 1,000 runs at 5 tokens/s", Floor: copier, Unit: "µs", Rule: figures.TimesAtMost, Budget: 1.5},
			{ID: "relay-cpu-fast", Figure: "the same, 100 runs at 50 tokens/s", Floor: copier, Unit: "µs", Rule: figures.TimesAtMost, Budget: 1.5},
			{ID: "relay-p50-many", Figure: "latency provider → reader, p50, 1,000 runs at 5 tokens/s", Floor: copier, Unit: "ms", Rule: figures.AboveAtMost, Budget: 1},
			{ID: "relay-p99-many", Figure: "the same, p99", Floor: copier, Unit: "ms", Rule: figures.AboveAtMost, Budget: 10},
			{ID: "relay-p50-fast", Figure: "latency, p50, 100 runs at 50 tokens/s", Floor: copier, Unit: "ms", Rule: figures.AboveAtMost, Budget: 1},
			{ID: "relay-p99-fast", Figure: "the same, p99", Floor: copier, Unit: "ms", Rule: figures.AboveAtMost, Budget: 10},
			{ID: "memory-live", Figure: "memory per live stream with one reader", Floor: copier, Unit: "KiB", Rule: figures.TimesAtMost, Budget: 2},
			{ID: "memory-silent", Figure: "memory per silent stream with one reader", Floor: copier, Unit: "KiB", Rule: figures.TimesAtMost, Budget: 2},
		}},
		{Name: "fanout", run: fanout, Rows: []figures.Row{
			{ID: "fanout-cpu", Figure: "one run with 1,000 readers, CPU per frame and reader", Floor: "bare writes of the same frames", Unit: "µs", Rule: figures.TimesAtMost, Budget: 1.5},
		}},
		{Name: "idle", run: idle, Rows: []figures.Row{
			{ID: "first-token", Figure: "apply → first token at the reader, idle system, p50", Floor: "a direct call to the provider", Unit: "ms", Rule: figures.AboveAtMost, Budget: 25},
			{ID: "one-run", Figure: "one run on an idle system, create → terminal, p50", Floor: "a direct call to the provider", Unit: "ms", Rule: figures.AboveAtMost, Budget: 20},
		}},
		{Name: "requests", run: requests, Rows: []figures.Row{
			{ID: "api-writes", Figure: "API writes per good run with a title", Unit: "writes", Rule: figures.AtMost, Budget: 3},
			{ID: "api-reads", Figure: "API reads per good run, with credentials", Unit: "reads", Rule: figures.AtMost, Budget: 1},
			{ID: "api-events", Figure: "watch events per good run: its creation, and one a write", Unit: "events", Rule: figures.AtMost, Budget: 4},
		}},
		{Name: "throughput", run: throughput, Rows: []figures.Row{
			{ID: "rate-200", Figure: "good runs per second, 200 at once", Floor: client, Unit: "runs/s", Rule: figures.TimesAtLeast, Budget: 0.6},
			{ID: "rate-1000", Figure: "good runs per second, 1,000 at once", Floor: client, Unit: "runs/s", Rule: figures.TimesAtLeast, Budget: 0.6},
			{ID: "time-200", Figure: "time until 200 runs made at once have ended", Floor: "their writes at the client's rate, and one call", Unit: "s", Rule: figures.TimesAtMost, Budget: 2},
			{ID: "run-cpu", Figure: "CPU of the manager per run, 200 at once", Unit: "ms", Rule: figures.AtMost, Budget: 5},
			{ID: "burst-memory", Figure: "peak memory of the manager, 200 at once", Unit: "MiB", Rule: figures.AtMost, Budget: 80},
			{ID: "reconciles", Figure: "reconciles per run, offered at 0.7 of the client's rate", Unit: "reconciles", Rule: figures.AtMost, Budget: 6},
			{ID: "queue-p99", Figure: "time in the work queue at that rate, p99", Unit: "ms", Rule: figures.AtMost, Budget: 100},
		}},
		{Name: "huge", run: huge, Once: true, Rows: []figures.Row{
			{ID: "memory-huge", Figure: "peak memory with 10,000 live runs", Unit: "MiB", Rule: figures.AtMost, Budget: 1024},
		}},
		{Name: "stored", run: stored, Once: true, Rows: []figures.Row{
			{ID: "stored-ready", Figure: "20,000 finished runs stored: start-up to ready", Floor: "a bare client lists them", Unit: "s", Rule: figures.TimesAtMost, Budget: 1.5},
			{ID: "stored-memory", Figure: "20,000 finished runs stored: memory per run", Unit: "KiB", Rule: figures.AtMost, Budget: 15},
		}},
	}
	for _, s := range table {
		for i := range s.Rows {
			s.Rows[i].Shortfall = shortfalls[s.Rows[i].ID]
		}
	}
	return table
}

// shortfalls are the rows whose budget is known to be missed, and why. Such a row does
// not fail the benchmark; docs/performance.md shows the list. A row leaves it with the
// change that mends it.
var shortfalls = map[string]string{}
