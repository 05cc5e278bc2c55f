// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
)

// everything returns a registry in which every metric has a value.
func everything(t *testing.T) (*prometheus.Registry, *Metrics) {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	m, err := New(r)
	if err != nil {
		t.Fatal(err)
	}
	err = m.Show(States{
		Exists:  func(p string) bool { return strings.HasPrefix(p, "ns/") },
		Reasons: []string{"Completed", "QuotaExhausted"},
		Runs:    func() (map[string]int, bool) { return map[string]int{"Pending": 2}, true },
		Providers: func() []ProviderState {
			return []ProviderState{{Provider: "ns/a", Held: 1, Waiting: 2, Limit: 3, Gates: 1, Width: 4}, {Provider: "gone/b", Held: 5, Limit: 9}, {Provider: "gone/c", Held: 6}}
		},
		Attempts: func() int { return 7 }, MaxAttempts: 8,
		LeaseHeld: func() bool { return true },
		LogBytes:  func() int { return 9 }, MaxLogBytes: 10,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.ShowReaders(func() Readers { return Readers{1, 2, 3, 4, 5, 6} }); err != nil {
		t.Fatal(err)
	}
	m.Begun("ns/a", time.Second)
	m.Ended("ns/a", End{Outcome: OutcomeSucceeded, Duration: time.Second, FirstToken: time.Millisecond, InputTokens: 3, OutputTokens: -4})
	m.Retry("ns/a", "Overloaded", time.Second)
	m.Finished("ns/a", "Completed", "Succeeded", time.Minute)
	m.Title(TitleWritten)
	m.TakenOver()
	m.Fenced()
	return r, m
}

func gather(t *testing.T, r prometheus.Gatherer) map[string]*dto.MetricFamily {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]*dto.MetricFamily{}
	for _, f := range families {
		byName[f.GetName()] = f
	}
	return byName
}

// series returns the values of a family by their labels.
func series(f *dto.MetricFamily) map[string]float64 {
	values := map[string]float64{}
	for _, m := range f.GetMetric() {
		var labels []string
		for _, l := range m.GetLabel() {
			labels = append(labels, l.GetName()+"="+l.GetValue())
		}
		value := m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetHistogram().GetSampleSum()
		values[strings.Join(labels, ",")] = value
	}
	return values
}

func TestLint(t *testing.T) {
	r, _ := everything(t)
	problems, err := promlint.NewWithMetricFamilies(slices.Collect(maps.Values(gather(t, r)))).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// TestPage: docs/metrics.md lists what the registry has, with its type and labels.
func TestPage(t *testing.T) {
	raw, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile("(?m)^\\| `(chatrun_[a-z_]+)` \\| (\\w+) \\|([^|]*)\\| ").FindAllStringSubmatch(string(raw), -1)
	page := map[string]string{}
	for _, row := range rows {
		page[row[1]] = row[2] + " " + strings.TrimSpace(strings.NewReplacer("`", "", ",", "").Replace(row[3]))
	}
	r, m := everything(t)
	registry := map[string]string{}
	for name, f := range gather(t, r) {
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		registry[name] = strings.ToLower(f.GetType().String()) + " " + ordered(page[name], labels)
	}
	if !maps.Equal(page, registry) {
		for _, name := range slices.Sorted(maps.Keys(page)) {
			if page[name] != registry[name] {
				t.Errorf("%s: the page says %q, the registry has %q", name, page[name], registry[name])
			}
		}
		for name := range registry {
			if page[name] == "" {
				t.Errorf("%s is not on the page", name)
			}
		}
	}
	if described := m.described(); len(described) != len(registry) {
		t.Errorf("%d metrics are registered, and %d were seen: %v", len(described), len(registry), described)
	}
}

// ordered returns labels in the order in which the page has them: the registry sorts
// them.
func ordered(page string, labels []string) string {
	order := strings.Fields(page)
	slices.SortFunc(labels, func(a, b string) int { return slices.Index(order, a) - slices.Index(order, b) })
	return strings.Join(labels, " ")
}

// described returns the names of all that is registered, with a value or without.
func (m *Metrics) described() map[string]bool {
	names := map[string]bool{}
	for _, c := range m.registered {
		descs := make(chan *prometheus.Desc, 16)
		c.Describe(descs)
		close(descs)
		for d := range descs {
			names[regexp.MustCompile(`fqName: "([^"]+)"`).FindStringSubmatch(d.String())[1]] = true
		}
	}
	return names
}

// TestProviders: as many have their own series as may, only if they exist, and no
// longer than that.
func TestProviders(t *testing.T) {
	r, m := everything(t)
	for i := range 2 * MaxProviders {
		m.Begun(fmt.Sprintf("ns/p%d", i), 0)
		m.Begun(fmt.Sprintf("other-ns/p%d", i), 0)
	}
	attempts := series(gather(t, r)["chatrun_attempts_total"])
	if len(attempts) != MaxProviders+1 || attempts["provider=other"] != 3*MaxProviders+1 {
		t.Errorf("%d series, %v of others", len(attempts), attempts["provider=other"])
	}
	exists := m.providers.exists
	m.providers.exists = func(p string) bool { return p != "ns/a" && exists(p) }
	m.Forget("ns/a")
	m.Forget("ns/unknown")
	for name, f := range gather(t, r) {
		for labels := range series(f) {
			if strings.Contains(labels, "=ns/a") {
				t.Errorf("%s{%s} is still there", name, labels)
			}
		}
	}
	m.Begun("ns/late", 0)
	if got := series(gather(t, r)["chatrun_attempts_total"])["provider=ns/late"]; got != 1 {
		t.Error("a place that was free was not given")
	}
}

// TestStates: those without a label of their own are summed up, and a bound is shown
// only where there is one.
func TestStates(t *testing.T) {
	r, _ := everything(t)
	all := gather(t, r)
	for name, want := range map[string]map[string]float64{
		"chatrun_runs":                  {"phase=Pending": 2},
		"chatrun_provider_places_held":  {"provider=ns/a": 1, "provider=other": 11},
		"chatrun_provider_waiting_runs": {"provider=ns/a": 2, "provider=other": 0},
		"chatrun_provider_limit":        {"provider=ns/a": 3},
		"chatrun_provider_gates":        {"provider=ns/a": 1, "provider=other": 0},
		"chatrun_provider_gate_width":   {"provider=ns/a": 4},
		"chatrun_tokens_total":          {"direction=input,provider=ns/a": 3, "direction=output,provider=ns/a": 0},
		"chatrun_runs_finished_total":   {"provider=ns/a,reason=Completed": 1, "provider=ns/a,reason=QuotaExhausted": 0},
		"chatrun_readers":               {"": 1},
		"chatrun_relays":                {"direction=in": 2, "direction=out": 3},
		"chatrun_readers_refused_total": {"kind=reader": 4, "kind=relay": 5},
		"chatrun_relayed_frames_total":  {"": 6},
		"chatrun_lease_held":            {"": 1},
	} {
		if got := series(all[name]); !maps.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

// TestForgottenMeanwhile: nothing is counted by the label of a provider that is gone,
// or its series would stay for ever.
func TestForgottenMeanwhile(t *testing.T) {
	r := prometheus.NewRegistry()
	m, err := New(r)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	there := true
	m.providers.exists = func(string) bool {
		mu.Lock()
		defer mu.Unlock()
		return there
	}
	var work sync.WaitGroup
	for range 4 {
		work.Go(func() {
			for range 2000 {
				m.Begun("ns/a", 0)
			}
		})
	}
	mu.Lock()
	there = false
	mu.Unlock()
	m.Forget("ns/a")
	work.Wait()
	attempts := series(gather(t, r)["chatrun_attempts_total"])
	if _, stays := attempts["provider=ns/a"]; stays {
		t.Errorf("it is still counted: %v", attempts)
	}
}

// BenchmarkEnded is what the end of an attempt costs.
func BenchmarkEnded(b *testing.B) {
	m, err := New(prometheus.NewRegistry())
	if err != nil {
		b.Fatal(err)
	}
	m.providers.exists = func(string) bool { return true }
	for b.Loop() {
		m.Ended("ns/a", End{Outcome: OutcomeSucceeded, Duration: time.Second, FirstToken: time.Millisecond, InputTokens: 3, OutputTokens: 4})
	}
}
