// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package rows

import (
	"context"
	"os"
	"regexp"
	"testing"
	"time"

	"chatrun.dev/operator/test/bench/actor"
	"chatrun.dev/operator/test/bench/figures"
)

func TestMain(m *testing.M) {
	actor.Main()
	os.Exit(m.Run())
}

// smokeTime bounds all of a tiny benchmark, on a machine that is busy.
const smokeTime = 5 * time.Minute

// TestEveryRow measures every row once at a tiny scale, and how cost grows: whether a
// row can be measured at all. The figures mean nothing, but each has to be one.
func TestEveryRow(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), smokeTime)
	defer cancel()
	w, err := NewWorld(ctx, Tiny(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.Stop(); err != nil {
			t.Error(err)
		}
	}()
	report, err := Run(ctx, w, regexp.MustCompile(""), 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s\n%s", report.Table(), report.Notes())
	for _, r := range report.Results {
		checkRow(t, r)
	}
	growth, err := Grow(ctx, w)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range growth.Points {
		if p.Manager.CPU <= 0 || p.Copier.CPU <= 0 || p.Manager.Window.Latency.Count == 0 {
			t.Errorf("a point without figures: %+v", p)
		}
	}
	soaked, err := Soak(ctx, w, soakTime)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(soaked.Text())
	if len(soaked.Wrong) > 0 || soaked.Failed == 0 || soaked.Goroutines.Mean <= 0 || soaked.Memory.Mean <= 0 {
		t.Errorf("%+v", soaked)
	}
}

// soakTime has many runs, of which some fail at first.
const soakTime = 4 * time.Second

// exact are the rows that no machine changes. Of the writes some are made again: those
// of titles that meet a status.
var exact = map[string]float64{"api-reads": 1, "api-events": 4}

func checkRow(t *testing.T, r figures.Result) {
	t.Helper()
	for _, m := range r.Samples {
		if want, ok := exact[r.ID]; ok && m.Value != want {
			t.Errorf("%s is %g, not %g", r.ID, m.Value, want)
		}
		if r.ID == "api-writes" && (m.Value < 3 || m.Value > 5) {
			t.Errorf("%s is %g", r.ID, m.Value)
		}
		// What a few streams take is lost in what a process takes anyway.
		memory := r.Unit == "KiB"
		if !memory && m.Value <= 0 {
			t.Errorf("%s is %g", r.ID, m.Value)
		}
		if r.Floor != "" && !memory && m.Floor <= 0 {
			t.Errorf("the floor of %s is %g", r.ID, m.Floor)
		}
	}
}
