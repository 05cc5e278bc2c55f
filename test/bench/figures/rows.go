// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package figures

import (
	"fmt"
	"math"
	"slices"
	"strconv"
)

// Rule is how a figure is held against its floor.
type Rule string

// The rules.
const (
	AtMost       Rule = "at most"             // the figure itself
	TimesAtMost  Rule = "at most, × floor"    // the figure by its floor
	TimesAtLeast Rule = "at least, × floor"   // likewise
	AboveAtMost  Rule = "at most above floor" // the figure less its floor
)

// Row is a line of the table.
type Row struct {
	ID string `json:"id"`
	// Figure says what is measured, Floor against what; empty is none.
	Figure string  `json:"figure"`
	Floor  string  `json:"floor,omitempty"`
	Unit   string  `json:"unit"`
	Rule   Rule    `json:"rule"`
	Budget float64 `json:"budget"`
	// Shortfall is why the budget is known to be missed; empty is that it is not.
	Shortfall string `json:"shortfall,omitempty"`
}

// Measured is one repetition of a row.
type Measured struct {
	Value float64 `json:"value"`
	Floor float64 `json:"floor,omitempty"`
	// Note says what else was seen.
	Note string `json:"note,omitempty"`
}

// Result is a row with all its repetitions.
type Result struct {
	Row
	Samples []Measured `json:"samples"`
}

// Spread is a median, and the least and the most.
type Spread struct{ Median, Least, Most float64 }

func spreadOf(values []float64) Spread {
	if len(values) == 0 {
		return Spread{math.NaN(), math.NaN(), math.NaN()}
	}
	return Spread{Median(values), slices.Min(values), slices.Max(values)}
}

// Value is the figure itself.
func (r Result) Value() Spread { return r.spread(func(m Measured) float64 { return m.Value }) }

// FloorValue is that of the floor.
func (r Result) FloorValue() Spread { return r.spread(func(m Measured) float64 { return m.Floor }) }

// Compared is what is held against the budget. Each repetition is compared with its
// own floor, as both met the same machine.
func (r Result) Compared() Spread {
	return r.spread(func(m Measured) float64 {
		switch r.Rule {
		case TimesAtMost, TimesAtLeast:
			return m.Value / m.Floor
		case AboveAtMost:
			return m.Value - m.Floor
		default:
			return m.Value
		}
	})
}

func (r Result) spread(of func(Measured) float64) Spread {
	values := make([]float64, len(r.Samples))
	for i, m := range r.Samples {
		values[i] = of(m)
	}
	return spreadOf(values)
}

// Verdict is what came of a row.
type Verdict string

// The verdicts. Only Missed fails a benchmark.
const (
	Met    Verdict = "met"
	Missed Verdict = "missed"
	Known  Verdict = "known shortfall"
)

// Verdict holds the median against the budget. What is not a number is missed.
func (r Result) Verdict() Verdict {
	c := r.Compared().Median
	met := c <= r.Budget
	if r.Rule == TimesAtLeast {
		met = c >= r.Budget && !math.IsInf(c, 0)
	}
	switch {
	case met:
		return Met
	case r.Shortfall != "":
		return Known
	default:
		return Missed
	}
}

// Says is the budget in words.
func (r Row) Says() string {
	n := number(r.Budget)
	switch r.Rule {
	case TimesAtMost:
		return "≤ " + n + " × floor"
	case TimesAtLeast:
		return "≥ " + n + " × floor"
	case AboveAtMost:
		return "≤ " + n + " " + r.Unit + " above floor"
	default:
		return "≤ " + n + " " + r.Unit
	}
}

// number has three digits that count.
func number(v float64) string {
	switch {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return "none"
	case math.Abs(v) >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	default:
		return strconv.FormatFloat(v, 'g', 3, 64)
	}
}

func (s Spread) String() string {
	if s.Least == s.Most {
		return number(s.Median)
	}
	return fmt.Sprintf("%s (%s–%s)", number(s.Median), number(s.Least), number(s.Most))
}
