// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package figures

import (
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestPercentile(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(100 - i) // 100 … 1, unsorted
	}
	for _, tc := range []struct {
		of      []float64
		percent float64
		want    float64
	}{
		{nil, 50, 0},
		{[]float64{7}, 99, 7},
		{[]float64{3, 1, 2}, 50, 2},
		{[]float64{4, 1, 2, 3}, 50, 2},
		{hundred, 50, 50}, {hundred, 99, 99}, {hundred, 100, 100}, {hundred, 0, 1}, {hundred, 99.5, 100},
	} {
		if got := Percentile(slices.Clone(tc.of), tc.percent); got != tc.want {
			t.Errorf("p%g of %d values is %g, not %g", tc.percent, len(tc.of), got, tc.want)
		}
	}
}

func TestMedian(t *testing.T) {
	for _, tc := range []struct {
		of   []float64
		want float64
	}{{nil, 0}, {[]float64{5}, 5}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 3, 2}, 2.5}} {
		before := slices.Clone(tc.of)
		if got := Median(tc.of); got != tc.want {
			t.Errorf("the median of %v is %g, not %g", tc.of, got, tc.want)
		}
		if !slices.Equal(before, tc.of) {
			t.Error("the values were sorted")
		}
	}
}

func TestLatencyOf(t *testing.T) {
	l := LatencyOf([]time.Duration{3 * time.Millisecond, 1500 * time.Microsecond, 2 * time.Millisecond})
	if want := (Latency{3, 2, 3, 3}); l != want {
		t.Errorf("%+v, not %+v", l, want)
	}
}

// line are samples of something that grows by so much an hour, one a second.
func line(n int, from, perHour float64, noise func(int) float64) (at []time.Duration, values []float64) {
	for i := range n {
		d := time.Duration(i) * time.Second
		at, values = append(at, d), append(values, from+perHour*d.Hours()+noise(i))
	}
	return at, values
}

func TestSlope(t *testing.T) {
	none := func(int) float64 { return 0 }
	saw := func(i int) float64 { return float64(i*7919%13) - 6 }
	for _, tc := range []struct {
		name    string
		perHour float64
		noise   func(int) float64
		flat    bool
	}{
		{"level", 0, none, true},
		{"noise alone", 0, saw, true},
		{"a leak", 500, none, false},
		{"a leak under noise", 500, saw, false},
		{"a leak too small to matter", 40, none, true},
		{"shrinking", -500, none, true},
	} {
		at, values := line(600, 1000, tc.perHour, tc.noise)
		s, err := SlopeOf(at, values, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if math.Abs(s.PerHour-tc.perHour) > s.Within+1e-6 {
			t.Errorf("%s: the slope is %g ± %g, not %g", tc.name, s.PerHour, s.Within, tc.perHour)
		}
		if s.Flat() != tc.flat {
			t.Errorf("%s: flat is %v: %+v", tc.name, s.Flat(), s)
		}
		if s.Points != 10 {
			t.Errorf("%s: %d points", tc.name, s.Points)
		}
	}
}

// TestSlopeOfBooks compares with a line whose confidence is worked out by hand: of
// x = 0…4 and y = 1, 3, 2, 5, 4 the slope is 0.8, its standard error 0.3464, and t of
// three degrees of freedom 3.1824.
func TestSlopeOfBooks(t *testing.T) {
	var at []time.Duration
	for i := range 5 {
		at = append(at, time.Duration(i)*time.Hour)
	}
	s, err := SlopeOf(at, []float64{1, 3, 2, 5, 4}, time.Hour)
	if err != nil || math.Abs(s.PerHour-0.8) > 1e-9 || math.Abs(s.Within-3.18245*0.34641) > 1e-3 || s.Mean != 3 {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := SlopeOf(at[:4], []float64{1, 2, 3, 4}, time.Hour); err == nil {
		t.Error("four points have a slope")
	}
}

func result(rule Rule, budget float64, samples ...Measured) Result {
	return Result{Row: Row{ID: "x", Floor: "f", Unit: "ms", Rule: rule, Budget: budget}, Samples: samples}
}

func TestVerdict(t *testing.T) {
	for _, tc := range []struct {
		name string
		of   Result
		want Verdict
	}{
		{"at most", result(AtMost, 5, Measured{Value: 5}), Met},
		{"more than at most", result(AtMost, 5, Measured{Value: 5.1}), Missed},
		{"the median counts", result(AtMost, 5, Measured{Value: 9}, Measured{Value: 4}, Measured{Value: 3}), Met},
		{"times its floor", result(TimesAtMost, 1.5, Measured{Value: 15, Floor: 10}), Met},
		{"more times its floor", result(TimesAtMost, 1.5, Measured{Value: 16, Floor: 10}), Missed},
		{"each by its own floor", result(TimesAtMost, 1.5, Measured{Value: 10, Floor: 10}, Measured{Value: 100, Floor: 90}, Measured{Value: 10, Floor: 1}), Met},
		{"a floor of nothing", result(TimesAtMost, 1.5, Measured{Value: 1}), Missed},
		{"at least", result(TimesAtLeast, 0.6, Measured{Value: 60, Floor: 100}), Met},
		{"less than at least", result(TimesAtLeast, 0.6, Measured{Value: 59, Floor: 100}), Missed},
		{"at least of nothing", result(TimesAtLeast, 0.6, Measured{Value: 59}), Missed},
		{"above its floor", result(AboveAtMost, 20, Measured{Value: 315, Floor: 295}), Met},
		{"too far above its floor", result(AboveAtMost, 20, Measured{Value: 316, Floor: 295}), Missed},
		{"not measured", result(AtMost, 5), Missed},
	} {
		if got := tc.of.Verdict(); got != tc.want {
			t.Errorf("%s: %s, not %s", tc.name, got, tc.want)
		}
		tc.of.Shortfall = "why"
		want := tc.want
		if want == Missed {
			want = Known
		}
		if got := tc.of.Verdict(); got != want {
			t.Errorf("%s, known: %s, not %s", tc.name, got, want)
		}
	}
}

// TestReport goes from a file to the tables of the docs.
func TestReport(t *testing.T) {
	report := Report{
		Taken: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Took: 3 * time.Minute, Machine: Machine{2, "6.1", "go1.26", 0.5}, Repetitions: 3,
		Results: []Result{
			{Row{"a", "CPU", "copier", "µs", TimesAtMost, 1.5, ""}, []Measured{{45, 30, "n"}, {40, 20, ""}, {30, 30, ""}}},
			{Row{"b", "memory", "", "MiB", AtMost, 80, "texts are held twice"}, []Measured{{91.26, 0, ""}}},
			{Row{"c", "reads", "", "reads", AtMost, 1, ""}, []Measured{{2, 0, ""}}},
		},
	}
	path := filepath.Join(t.TempDir(), "new", "results.json")
	if err := Write(path, report); err != nil {
		t.Fatal(err)
	}
	var got Report
	if err := Read(path, &got); err != nil {
		t.Fatal(err)
	}
	table := got.Table()
	for _, line := range []string{
		"Taken on 2026-01-02 03:04 UTC: 2 CPUs, Linux 6.1, go1.26, load average 0.5 when it began; 3 repetitions, medians (least–most), 3m0s in all.",
		"| `a` | CPU | µs | 40 (30–45) | 30 (20–30) | 1.5 (1–2) | ≤ 1.5 × floor | met |",
		"| `b` | memory | MiB | 91.3 | – | – | ≤ 80 MiB | known shortfall |",
		"| `c` | reads | reads | 2 | – | – | ≤ 1 reads | missed |",
	} {
		if !strings.Contains(table, line+"\n") {
			t.Errorf("no line %q in\n%s", line, table)
		}
	}
	if notes := got.Notes(); notes != "a, repetition 1: n\n" {
		t.Errorf("notes %q", notes)
	}
	if missed := got.Missed(); !slices.Equal(missed, []string{"c"}) {
		t.Errorf("missed %q", missed)
	}
	if known := got.Shortfalls(); !strings.Contains(known, "| `b` | texts are held twice | known shortfall |") || strings.Contains(known, "`a`") {
		t.Errorf("shortfalls %q", known)
	}
}

func TestFill(t *testing.T) {
	const document = "# A\n<!-- x: begin -->\n\nold\n\n<!-- x: end -->\nrest\n"
	got, err := Fill(document, "x", "new\n")
	if want := "# A\n<!-- x: begin -->\n\nnew\n\n<!-- x: end -->\nrest\n"; err != nil || got != want {
		t.Errorf("%q, %v", got, err)
	}
	for _, name := range []string{"y", "x: begin"} {
		if _, err := Fill(document, name, "new"); err == nil {
			t.Errorf("%s was filled", name)
		}
	}
	if _, err := Fill("<!-- x: begin -->\nno end", "x", "new"); err == nil {
		t.Error("a part without an end was filled")
	}
}
