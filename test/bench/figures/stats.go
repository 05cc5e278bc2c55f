// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package figures is the arithmetic of the benchmarks: what is measured, against
// which floor, how often, and whether that keeps to the budget. It measures
// nothing itself.
package figures

import (
	"errors"
	"math"
	"slices"
	"time"

	"gonum.org/v1/gonum/stat"
	"gonum.org/v1/gonum/stat/distuv"
)

// Percentile is the smallest value that at least so many percent are not above
// (the nearest rank); 0 of nothing. The values are sorted by it.
func Percentile(values []float64, percent float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	rank := int(math.Ceil(percent / 100 * float64(len(values))))
	return values[min(max(rank, 1), len(values))-1]
}

// Median is the middle one, or the mean of the two in the middle; 0 of nothing.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	half := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[half]
	}
	return (sorted[half-1] + sorted[half]) / 2
}

// Latency is a distribution, in milliseconds.
type Latency struct {
	Count         int
	P50, P99, Max float64
}

// LatencyOf makes one of durations.
func LatencyOf(all []time.Duration) Latency {
	values := make([]float64, len(all))
	for i, d := range all {
		values[i] = Milliseconds(d)
	}
	return Latency{len(all), Percentile(values, 50), Percentile(values, 99), Percentile(values, 100)}
}

// Milliseconds is a duration as a figure.
func Milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// Slope is how fast something grows, by the line of least squares.
type Slope struct {
	// PerHour is the slope, Within its 95 % confidence to either side, both in the
	// unit of what was sampled. Mean is what was sampled on average.
	PerHour, Within, Mean float64
	// Points is how many the line was laid through.
	Points int
}

// minPoints is the fewest with which a slope has a confidence that says anything.
const minPoints = 5

// confidence is two-sided: 95 %.
const confidence = 0.975

// SlopeOf lays a line through means of the samples of each block of time, as samples
// that follow each other closely tell nearly the same and feign confidence.
func SlopeOf(at []time.Duration, values []float64, block time.Duration) (Slope, error) {
	hours, means := blocks(at, values, block)
	n := len(hours)
	if n < minPoints {
		return Slope{}, errors.New("too few samples for a slope")
	}
	alpha, beta := stat.LinearRegression(hours, means, nil, false)
	var residuals, spread float64
	middle := stat.Mean(hours, nil)
	for i, x := range hours {
		off := means[i] - alpha - beta*x
		residuals += off * off
		spread += (x - middle) * (x - middle)
	}
	free := float64(n - 2)
	t := distuv.StudentsT{Mu: 0, Sigma: 1, Nu: free}.Quantile(confidence)
	return Slope{PerHour: beta, Within: t * math.Sqrt(residuals/free/spread), Mean: stat.Mean(means, nil), Points: n}, nil
}

// blocks are the middles, in hours, and the means of the samples of each block.
func blocks(at []time.Duration, values []float64, block time.Duration) (hours, means []float64) {
	for from := 0; from < len(at); {
		to, sum := from, 0.0
		for ; to < len(at) && at[to]/block == at[from]/block; to++ {
			sum += values[to]
		}
		hours = append(hours, (at[from]+at[to-1]).Hours()/2)
		means = append(means, sum/float64(to-from))
		from = to
	}
	return hours, means
}

// flatDrift is how much of its mean something may gain within an hour and still be
// called flat, if its slope is certain: a leak of a stream, or of its goroutine, is
// hundreds of percent an hour at the load of a soak.
const flatDrift = 0.05

// Flat says whether the slope is none as far as can be told, or too small to matter.
func (s Slope) Flat() bool {
	return s.PerHour-s.Within <= 0 || s.PerHour <= flatDrift*s.Mean
}
