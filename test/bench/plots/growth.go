// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package plots draws the figures as SVG.
package plots

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"

	"chatrun.dev/operator/test/bench/rows"
)

// width and height are what fits into a page.
const (
	width  = 14 * vg.Centimeter
	height = 9 * vg.Centimeter
)

// chart is one picture: a figure by the number of runs.
type chart struct {
	file, title, unit string
	of                func(rows.Relayed) float64
}

// charts are all of them. Names of files are linked to in docs/performance.md.
var charts = []chart{
	{"bench-cpu.svg", "CPU per token", "µs", func(r rows.Relayed) float64 { return r.CPU }},
	{"bench-memory.svg", "Resident memory", "MiB", func(r rows.Relayed) float64 { return r.Resident }},
	{"bench-latency.svg", "Latency provider → reader, p99", "ms", func(r rows.Relayed) float64 { return r.Window.Latency.P99 }},
}

// images is where the pictures are, below the docs.
const images = "images"

// Links are the pictures that were drawn, in Markdown for a page of these docs.
func Links(docs string) string {
	var b strings.Builder
	for _, c := range charts {
		if _, err := os.Stat(filepath.Join(docs, images, c.file)); err == nil {
			fmt.Fprintf(&b, "\n![%s](%s/%s)\n", c.title, images, c.file)
		}
	}
	return b.String()
}

// Growth draws how cost grows, for those docs.
func Growth(g rows.Growth, docs string) error {
	dir := filepath.Join(docs, images)
	if len(g.Points) == 0 {
		return errors.New("there is nothing to draw")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, c := range charts {
		if err := c.draw(g, filepath.Join(dir, c.file)); err != nil {
			return fmt.Errorf("drawing %s: %w", c.file, err)
		}
	}
	return nil
}

func (c chart) draw(g rows.Growth, path string) error {
	manager, copier := make(plotter.XYs, len(g.Points)), make(plotter.XYs, len(g.Points))
	for i, p := range g.Points {
		manager[i] = plotter.XY{X: float64(p.Runs), Y: c.of(p.Manager)}
		copier[i] = plotter.XY{X: float64(p.Runs), Y: c.of(p.Copier)}
	}
	p := plot.New()
	p.Title.Text = c.title + ", one load spread over ever more runs"
	p.X.Label.Text, p.Y.Label.Text = "runs that stream at once", c.unit
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, ticks(g)
	p.Y.Min = 0
	p.Legend.Top, p.Legend.Left = true, true
	p.Add(plotter.NewGrid())
	if err := plotutil.AddLinePoints(p, "manager", manager, "copier", copier); err != nil {
		return err
	}
	p.Y.Min = 0
	return p.Save(width, height, path)
}

// ticks are the numbers of runs that were measured.
func ticks(g rows.Growth) plot.ConstantTicks {
	marks := make(plot.ConstantTicks, len(g.Points))
	for i, p := range g.Points {
		marks[i] = plot.Tick{Value: float64(p.Runs), Label: strconv.Itoa(p.Runs)}
	}
	return marks
}
