// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package rows

import (
	"context"
	"fmt"
	"regexp"
	"runtime"
	"strings"
	"time"

	"chatrun.dev/operator/test/bench/figures"
	"chatrun.dev/operator/test/bench/meter"
)

// Machine describes this one.
func Machine() figures.Machine {
	return figures.Machine{CPUs: runtime.NumCPU(), Kernel: meter.Kernel(), Go: runtime.Version(), Load: meter.Load()}
}

// Run measures the scenarios whose names match, so many times each, interleaved: what
// the machine does besides in some minute meets all of them alike.
func Run(ctx context.Context, w *World, only *regexp.Regexp, repetitions int) (figures.Report, error) {
	report := figures.Report{Taken: time.Now(), Machine: Machine(), Repetitions: repetitions}
	var scenarios []Scenario
	for _, s := range Scenarios() {
		if only.MatchString(s.Name) {
			scenarios = append(scenarios, s)
		}
	}
	if len(scenarios) == 0 {
		return report, fmt.Errorf("no scenario is called like %q", only)
	}
	found := figuresOf{}
	measure := func(s Scenario) error {
		began := time.Now()
		more, err := s.Run(ctx, w)
		if err != nil {
			return err
		}
		for id, samples := range more {
			found[id] = append(found[id], samples...)
		}
		w.Say("scenario %s took %s", s.Name, time.Since(began).Round(time.Second))
		return nil
	}
	for n := range repetitions {
		for _, s := range scenarios {
			if s.Once && n < repetitions-1 {
				continue // at the end, when nothing else is measured any more
			}
			if err := measure(s); err != nil {
				return report, fmt.Errorf("repetition %d: %w", n+1, err)
			}
		}
	}
	for _, s := range scenarios {
		for _, row := range s.Rows {
			report.Results = append(report.Results, figures.Result{Row: row, Samples: found[row.ID]})
		}
	}
	report.Took = time.Since(report.Taken)
	return report, nil
}

// Grown is one point of how cost grows.
type Grown struct {
	Load
	Manager, Copier Relayed
}

// Growth is one load, spread over ever more runs.
type Growth struct {
	Taken   time.Time
	Machine figures.Machine
	Points  []Grown
}

// Grow measures how cost grows.
func Grow(ctx context.Context, w *World) (Growth, error) {
	g := Growth{Taken: time.Now(), Machine: Machine()}
	for _, l := range w.Scale.Growth {
		ours, floor, err := w.both(ctx, l, false)
		if err != nil {
			return g, err
		}
		g.Points = append(g.Points, Grown{l, ours, floor})
	}
	return g, nil
}

// Table is the growth in Markdown.
func (g Growth) Table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Taken on %s: %d CPUs, Linux %s, load average %.2f when it began.\n\n",
		g.Taken.UTC().Format("2006-01-02 15:04 UTC"), g.Machine.CPUs, g.Machine.Kernel, g.Machine.Load)
	b.WriteString("| runs | tokens/s each | CPU, µs a token | copier | memory, MiB | copier | KiB a run | copier | p50, ms | copier | p99, ms | copier |\n" +
		"|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, p := range g.Points {
		m, c := p.Manager, p.Copier
		fmt.Fprintf(&b, "| %d | %g | %.1f | %.1f | %.0f | %.0f | %.0f | %.0f | %.2f | %.2f | %.1f | %.1f |\n",
			p.Runs, p.PerSecond, m.CPU, c.CPU, m.Resident, c.Resident, m.Each, c.Each,
			m.Window.Latency.P50, c.Window.Latency.P50, m.Window.Latency.P99, c.Window.Latency.P99)
	}
	return b.String()
}
