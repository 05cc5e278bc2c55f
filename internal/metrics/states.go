// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// States are asked for what is so at the moment. None of them may block for long.
type States struct {
	// Exists says whether a provider does.
	Exists func(provider string) bool
	// Reasons are those that a run may finish with. Each is there for each provider from
	// the beginning: a share of those that end is none of what was first seen later.
	Reasons []string
	// Runs returns how many runs of each phase are this replica's, and false if that
	// is not known.
	Runs func() (map[string]int, bool)
	// Providers returns how those stand that attempts are made at.
	Providers func() []ProviderState
	// Attempts are under way; MaxAttempts may be, 0 is no bound.
	Attempts    func() int
	MaxAttempts int
	// LeaseHeld says whether this replica may act.
	LeaseHeld func() bool
	// LogBytes is what the logs of runs hold, and MaxLogBytes what they may.
	LogBytes    func() int
	MaxLogBytes int
}

// ProviderState is how a provider stands.
type ProviderState struct {
	Provider string
	// Held are the places that are taken, and Waiting the runs that wait for one.
	Held, Waiting int
	// Limit is its own bound; 0 if it has none.
	Limit int
	// Gates are the models that let only so many attempts under way, and Width how
	// many those are, all together.
	Gates, Width int
}

// Show lets the states be seen. It is to be called once.
func (m *Metrics) Show(s States) error {
	m.providers.mu.Lock()
	m.providers.exists, m.reasons = s.Exists, s.Reasons
	m.providers.mu.Unlock()
	return errors.Join(
		m.register(&phases{s.Runs}, &standings{m, s.Providers}),
		m.gauge("chatrun_attempts_running", "Attempts that are under way.", func() float64 { return float64(s.Attempts()) }),
		m.gauge("chatrun_attempts_limit", "Attempts that may be under way at a time; 0 is no bound.", constant(s.MaxAttempts)),
		m.gauge("chatrun_lease_held", "1 if this replica's Lease is held, so that it may make attempts.", func() float64 {
			if s.LeaseHeld() {
				return 1
			}
			return 0
		}),
		m.gauge("chatrun_log_bytes", "What the logs of runs hold for readers.", func() float64 { return float64(s.LogBytes()) }),
		m.gauge("chatrun_log_limit_bytes", "What they may hold together.", constant(s.MaxLogBytes)),
	)
}

// Readers are what the stream endpoint does.
type Readers struct {
	Served, Fetched, Forwarded            int
	RefusedReaders, RefusedRelays, Frames uint64
}

// ShowReaders lets what the stream endpoint does be seen. It is to be called once.
func (m *Metrics) ShowReaders(now func() Readers) error {
	refused := func(kind string, n func(Readers) uint64) error {
		return m.register(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "chatrun_readers_refused_total", Help: "Readers, and relays of other replicas, that were answered 429.",
			ConstLabels: prometheus.Labels{labelKind: kind},
		}, func() float64 { return float64(n(now())) }))
	}
	relays := func(direction string, n func(Readers) int) error {
		return m.register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "chatrun_relays", Help: "Runs that are read from other replicas (in), or by them (out).",
			ConstLabels: prometheus.Labels{labelDirection: direction},
		}, func() float64 { return float64(n(now())) }))
	}
	return errors.Join(
		m.gauge("chatrun_readers", "Readers that are served, or wait for a run to be created.", func() float64 { return float64(now().Served) }),
		refused("reader", func(r Readers) uint64 { return r.RefusedReaders }),
		refused("relay", func(r Readers) uint64 { return r.RefusedRelays }),
		relays("in", func(r Readers) int { return r.Fetched }),
		relays("out", func(r Readers) int { return r.Forwarded }),
		m.register(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "chatrun_relayed_frames_total", Help: "Frames that were read from other replicas.",
		}, func() float64 { return float64(now().Frames) })),
	)
}

func constant(n int) func() float64 { return func() float64 { return float64(n) } }

func (m *Metrics) gauge(name, help string, value func() float64) error {
	return m.register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
}

var runsDesc = prometheus.NewDesc("chatrun_runs",
	"Runs by phase: those that are this replica's, or fall to it.", []string{labelPhase}, nil)

// phases shows the runs.
type phases struct{ runs func() (map[string]int, bool) }

// Describe implements prometheus.Collector.
func (*phases) Describe(all chan<- *prometheus.Desc) { all <- runsDesc }

// Collect implements prometheus.Collector.
func (p *phases) Collect(all chan<- prometheus.Metric) {
	runs, known := p.runs()
	if !known {
		return
	}
	for phase, n := range runs {
		all <- prometheus.MustNewConstMetric(runsDesc, prometheus.GaugeValue, float64(n), phase)
	}
}

func providerDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, []string{labelProvider}, nil)
}

var (
	heldDesc    = providerDesc("chatrun_provider_places_held", "Places of a provider that are taken here, or reserved.")
	waitingDesc = providerDesc("chatrun_provider_waiting_runs", "Runs that wait for a place at a provider here.")
	limitDesc   = providerDesc("chatrun_provider_limit", "The provider's own limit; there is none without one.")
	gatesDesc   = providerDesc("chatrun_provider_gates", "Models of a provider that let only so many attempts under way, as it refused some.")
	widthDesc   = providerDesc("chatrun_provider_gate_width", "Attempts that those models let under way; there is none without one.")
)

// standings shows the providers.
type standings struct {
	*Metrics
	now func() []ProviderState
}

// Describe implements prometheus.Collector.
func (*standings) Describe(all chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{heldDesc, waitingDesc, limitDesc, gatesDesc, widthDesc} {
		all <- d
	}
}

// Collect implements prometheus.Collector.
func (s *standings) Collect(all chan<- prometheus.Metric) {
	sums := map[string]ProviderState{}
	for _, p := range s.now() {
		s.providers.with(p.Provider, func(label string) {
			sum := sums[label]
			sum.Held += p.Held
			sum.Waiting += p.Waiting
			sum.Limit += p.Limit
			sum.Gates += p.Gates
			sum.Width += p.Width
			sums[label] = sum
		})
	}
	for label, sum := range sums {
		show := func(d *prometheus.Desc, n int) {
			all <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), label)
		}
		show(heldDesc, sum.Held)
		show(waitingDesc, sum.Waiting)
		show(gatesDesc, sum.Gates)
		if sum.Gates > 0 {
			show(widthDesc, sum.Width)
		}
		if sum.Limit > 0 && label != OtherProviders {
			show(limitDesc, sum.Limit)
		}
	}
}
