// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package meter looks at processes from outside: what the scheduler and the memory
// of the machine say of them, and what they say of themselves at /metrics.
package meter

import (
	"context"
	"fmt"
	"net/http"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Metrics are what a process said of itself at one moment.
type Metrics map[string]*dto.MetricFamily

// Scrape reads /metrics.
func Scrape(ctx context.Context, url string) (Metrics, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s", url, resp.Status)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(resp.Body)
}

// Sum is the sum of a counter or gauge over all that have these labels.
func (m Metrics) Sum(name string, labels map[string]string) float64 {
	sum := 0.0
	for _, metric := range m.find(name, labels) {
		sum += metric.GetCounter().GetValue() + metric.GetGauge().GetValue()
	}
	return sum
}

// Buckets are how many were at or below each bound of a histogram.
type Buckets struct {
	// Count is of all.
	Count float64
	// Bounds are ascending, without the infinite one; AtMost stands beside them.
	Bounds, AtMost []float64
}

// Histogram reads one.
func (m Metrics) Histogram(name string, labels map[string]string) (Buckets, error) {
	found := m.find(name, labels)
	if len(found) != 1 || found[0].GetHistogram() == nil {
		return Buckets{}, fmt.Errorf("%d histograms %s with %v, not one", len(found), name, labels)
	}
	h := found[0].GetHistogram()
	b := Buckets{Count: float64(h.GetSampleCount())}
	for _, bucket := range h.GetBucket() {
		if bound := bucket.GetUpperBound(); bound < 1e300 {
			b.Bounds, b.AtMost = append(b.Bounds, bound), append(b.AtMost, float64(bucket.GetCumulativeCount()))
		}
	}
	return b, nil
}

// Since is what came after an earlier look.
func (b Buckets) Since(earlier Buckets) Buckets {
	d := Buckets{Count: b.Count - earlier.Count, Bounds: b.Bounds}
	for i, n := range b.AtMost {
		if i < len(earlier.AtMost) {
			n -= earlier.AtMost[i]
		}
		d.AtMost = append(d.AtMost, n)
	}
	return d
}

// Percentile is read off between the bounds of a bucket, as Prometheus does.
func (b Buckets) Percentile(percent float64) float64 {
	rank, below, low := percent/100*b.Count, 0.0, 0.0
	for i, n := range b.AtMost {
		if n >= rank && n > below {
			return low + (b.Bounds[i]-low)*(rank-below)/(n-below)
		}
		below, low = n, b.Bounds[i]
	}
	return low
}

func (m Metrics) find(name string, labels map[string]string) []*dto.Metric {
	var found []*dto.Metric
	for _, metric := range m[name].GetMetric() {
		if has(metric, labels) {
			found = append(found, metric)
		}
	}
	return found
}

func has(metric *dto.Metric, labels map[string]string) bool {
	n := 0
	for _, pair := range metric.GetLabel() {
		if want, ok := labels[pair.GetName()]; ok && want == pair.GetValue() {
			n++
		}
	}
	return n == len(labels)
}
