// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package metrics holds all that the manager counts: docs/metrics.md lists it. What
// counts runs and attempts is told after the write of a status that it tells of;
// what shows a state is asked for when somebody looks.
//
// Every label has a bound. No run's name is ever one, and providers are by Provider.
// Nothing here knows Kubernetes.
package metrics

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"chatrun.dev/operator/internal/chatretry"
)

const (
	labelProvider  = "provider"
	labelOutcome   = "outcome"
	labelClass     = "class"
	labelReason    = "reason"
	labelPhase     = "phase"
	labelDirection = "direction"
	labelResult    = "result"
	labelKind      = "kind"
)

// The directions of tokens.
const directionInput, directionOutput = "input", "output"

// How a title ended.
const (
	// TitleWritten: it stands on the run.
	TitleWritten = "Written"
	// TitleSuperseded: somebody had set one meanwhile.
	TitleSuperseded = "Superseded"
	// TitleFailed: the model gave none, or none in time.
	TitleFailed = "Failed"
	// TitleRefused: the API server takes no such annotation.
	TitleRefused = "Refused"
)

// The outcomes of an attempt that is neither failed nor ended by something else than
// the run. Failed ones have their class.
const (
	OutcomeSucceeded        = "Succeeded"
	OutcomeCancelled        = "Cancelled"
	OutcomeDeadlineExceeded = "DeadlineExceeded"
	OutcomeSuspended        = "Suspended"
	OutcomeHandedOver       = "HandedOver"
)

// Metrics are what the manager counts. Its methods may be called by any goroutine.
type Metrics struct {
	registry   prometheus.Registerer
	registered []prometheus.Collector
	providers  providers
	reasons    []string // Show's; the providers' lock guards them

	attempts   *prometheus.CounterVec
	outcomes   *prometheus.CounterVec
	retries    *prometheus.CounterVec
	finished   *prometheus.CounterVec
	tokens     *prometheus.CounterVec
	queued     *prometheus.HistogramVec
	firstToken *prometheus.HistogramVec
	attempt    *prometheus.HistogramVec
	delay      *prometheus.HistogramVec
	run        *prometheus.HistogramVec
	titles     *prometheus.CounterVec
	takeovers  prometheus.Counter
	fences     prometheus.Counter
}

// New returns metrics that are registered at a registry.
func New(registry prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{registry: registry}
	m.attempts = counter("chatrun_attempts_total", "Attempts that were begun.", labelProvider)
	m.outcomes = counter("chatrun_attempt_outcomes_total", "Attempts that ended, by what became of them.", labelProvider, labelOutcome)
	m.retries = counter("chatrun_retries_total", "Waits for a further attempt, by the class of the failure before.", labelProvider, labelClass)
	m.finished = counter("chatrun_runs_finished_total", "Runs that finished, by the reason in their condition.", labelProvider, labelReason)
	m.tokens = counter("chatrun_tokens_total", "Tokens that providers reported, of all attempts.", labelProvider, labelDirection)
	m.queued = histogram("chatrun_queue_duration_seconds",
		"How long an attempt waited for a place.", queueBuckets, labelProvider)
	m.firstToken = histogram("chatrun_time_to_first_token_seconds",
		"From the call of an attempt to the first part of its answer.", firstTokenBuckets, labelProvider)
	m.attempt = histogram("chatrun_attempt_duration_seconds",
		"From the call of an attempt to its end.", attemptBuckets, labelProvider)
	m.delay = histogram("chatrun_retry_delay_seconds",
		"Waits before further attempts, as the status promises them.", delayBuckets, labelProvider)
	m.run = histogram("chatrun_run_duration_seconds",
		"From the creation of a run to its end.", runBuckets, labelPhase)
	m.titles = counter("chatrun_titles_total", "Titles that were asked for, by what became of them.", labelResult)
	m.takeovers = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "chatrun_takeovers_total", Help: "Runs that were taken over from a replica that is gone or drains.",
	})
	m.fences = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "chatrun_fences_total", Help: "Times that all attempts were ended as the Lease was not renewed in time.",
	})
	m.providers.vectors = []vector{m.attempts, m.outcomes, m.retries, m.finished, m.tokens, m.queued, m.firstToken, m.attempt, m.delay}
	m.providers.begin = m.begin
	return m, m.register(m.attempts, m.outcomes, m.retries, m.finished, m.tokens,
		m.queued, m.firstToken, m.attempt, m.delay, m.run, m.titles, m.takeovers, m.fences)
}

// begin makes the series that a provider may have, at 0: what is there for the first
// time has no increase.
func (m *Metrics) begin(p string) {
	m.attempts.WithLabelValues(p)
	for _, outcome := range []string{OutcomeSucceeded, OutcomeCancelled, OutcomeDeadlineExceeded, OutcomeSuspended, OutcomeHandedOver} {
		m.outcomes.WithLabelValues(p, outcome)
	}
	for _, class := range classes {
		m.outcomes.WithLabelValues(p, string(class))
		if class.Retryable() {
			m.retries.WithLabelValues(p, string(class))
		}
	}
	for _, reason := range m.reasons {
		m.finished.WithLabelValues(p, reason)
	}
	for _, direction := range []string{directionInput, directionOutput} {
		m.tokens.WithLabelValues(p, direction)
	}
	for _, h := range []*prometheus.HistogramVec{m.queued, m.firstToken, m.attempt, m.delay} {
		h.WithLabelValues(p)
	}
}

// classes are those of failures.
var classes = []chatretry.Class{
	chatretry.RateLimited, chatretry.Overloaded, chatretry.ServerError, chatretry.Timeout, chatretry.ConnectionError,
	chatretry.StreamInterrupted, chatretry.WorkerLost, chatretry.AuthenticationFailed, chatretry.PermissionDenied,
	chatretry.QuotaExhausted, chatretry.ContextLengthExceeded, chatretry.ModelNotFound, chatretry.InvalidRequest,
	chatretry.ContentFiltered, chatretry.EmptyAnswer,
}

func (m *Metrics) register(all ...prometheus.Collector) error {
	var err error
	for _, c := range all {
		err = errors.Join(err, m.registry.Register(c))
		m.registered = append(m.registered, c)
	}
	return err
}

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

// Buckets end where people draw lines. The first token of a model that thinks may
// take minutes, a place as long as what is under way; waits double from one second,
// up to what chatretry takes of a hint.
var (
	queueBuckets      = []float64{0.01, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600}
	firstTokenBuckets = []float64{0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300}
	attemptBuckets    = []float64{0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800}
	delayBuckets      = []float64{1, 2, 4, 8, 16, 32, 60, 120, 300, 900, 3600}
	runBuckets        = []float64{1, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400}
)

const (
	// nativeFactor is the error of a native histogram, for those who scrape them:
	// a tenth. nativeBuckets bounds it, as whatever comes may be spread over days.
	nativeFactor  = 1.1
	nativeBuckets = 100
)

func histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: name, Help: help, Buckets: buckets,
		NativeHistogramBucketFactor: nativeFactor, NativeHistogramMaxBucketNumber: nativeBuckets,
	}, labels)
}

// Provider names one among metrics: "namespace/name".
func Provider(namespace, name string) string { return namespace + "/" + name }

// Begun counts an attempt that was begun, and how long it waited for its place.
func (m *Metrics) Begun(provider string, queued time.Duration) {
	m.providers.with(provider, func(p string) {
		m.attempts.WithLabelValues(p).Inc()
		m.queued.WithLabelValues(p).Observe(queued.Seconds())
	})
}

// End is how an attempt ended.
type End struct {
	// Outcome is one of this package's, or the class of a failure.
	Outcome string
	// Duration and FirstToken are from its call on; 0 if they are not known.
	Duration, FirstToken time.Duration
	// InputTokens and OutputTokens are what the provider reported.
	InputTokens, OutputTokens int64
}

// Ended counts an attempt that ended.
func (m *Metrics) Ended(provider string, e End) {
	m.providers.with(provider, func(p string) {
		m.outcomes.WithLabelValues(p, e.Outcome).Inc()
		if e.Duration > 0 {
			m.attempt.WithLabelValues(p).Observe(e.Duration.Seconds())
		}
		if e.FirstToken > 0 {
			m.firstToken.WithLabelValues(p).Observe(e.FirstToken.Seconds())
		}
		// A negative number is a provider's fault, and a counter would panic.
		m.tokens.WithLabelValues(p, directionInput).Add(float64(max(e.InputTokens, 0)))
		m.tokens.WithLabelValues(p, directionOutput).Add(float64(max(e.OutputTokens, 0)))
	})
}

// Retry counts a wait for a further attempt.
func (m *Metrics) Retry(provider, class string, delay time.Duration) {
	m.providers.with(provider, func(p string) {
		m.retries.WithLabelValues(p, class).Inc()
		m.delay.WithLabelValues(p).Observe(delay.Seconds())
	})
}

// Finished counts a run that finished, and how long it took from its creation.
func (m *Metrics) Finished(provider, reason, phase string, took time.Duration) {
	m.providers.with(provider, func(p string) { m.finished.WithLabelValues(p, reason).Inc() })
	m.run.WithLabelValues(phase).Observe(max(took.Seconds(), 0))
}

// Title counts a title by its result.
func (m *Metrics) Title(result string) { m.titles.WithLabelValues(result).Inc() }

// TakenOver counts a run that was another replica's.
func (m *Metrics) TakenOver() { m.takeovers.Inc() }

// Fenced counts a fence.
func (m *Metrics) Fenced() { m.fences.Inc() }

// Admit begins to count a provider by itself, if it exists and there is room.
func (m *Metrics) Admit(provider string) { m.providers.with(provider, func(string) {}) }

// Forget drops all that is counted of a provider, which is gone.
func (m *Metrics) Forget(provider string) { m.providers.forget(provider) }
