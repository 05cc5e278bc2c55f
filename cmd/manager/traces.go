// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/sdk/resource"
	semconv "go.opentelemetry.io/otel/semconv/v1.41.0"

	"chatrun.dev/operator/internal/traces"
)

const (
	tracesFlag = "traces-endpoint"
	// tracesCloseTime bounds how long the end of the process waits for a collector:
	// terminationGracePeriodSeconds has room for it.
	tracesCloseTime = 5 * time.Second
	// tracesLogPause is the least time between two lines about a collector that takes
	// nothing: it is tried every few seconds.
	tracesLogPause = time.Minute
)

// tracesOptions are the flags of traces.
type tracesOptions struct{ traces.Collector }

func (t *tracesOptions) bind(fs *flag.FlagSet) {
	fs.StringVar(&t.URL, tracesFlag, "",
		"URL of an OpenTelemetry collector that takes OTLP over HTTP, which is sent a span of each run and each attempt. Empty: nobody is.")
	fs.StringVar(&t.HeadersFile, "traces-headers-file", "",
		"File with lines of NAME: VALUE that are sent to the collector, for those that want a key. It is read again before each request.")
	fs.StringVar(&t.CAFile, "traces-ca-file", "",
		"File with the authorities of the collector's certificate, in PEM. Empty: those of the system.")
	fs.Float64Var(&t.Ratio, "traces-ratio", 1,
		"Share of the runs that are traced, from 0 to 1. One that was created in a trace is, if that trace is.")
}

// complete checks that none is set in vain.
func (t *tracesOptions) complete() error {
	if t.URL == "" && (t.HeadersFile != "" || t.CAFile != "" || t.Ratio != 1) {
		return fmt.Errorf("there are flags of traces, but no --%s", tracesFlag)
	}
	return nil
}

// start returns what tells of runs as spans, in the name of me; nil if nobody is told.
func (t *tracesOptions) start(me string, log logr.Logger) (*traces.Traces, error) {
	if t.URL == "" {
		return nil, nil
	}
	faults := &tracesFaults{log: log}
	otel.SetErrorHandler(faults)
	otel.SetLogger(log)
	about := resource.NewSchemaless(semconv.ServiceName("chatrun-operator"), semconv.ServiceInstanceID(me))
	told, err := traces.To(t.Collector, about)
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", tracesFlag, err)
	}
	// The library looks at variables, too, which the flags overrule.
	for _, err := range faults.begin() {
		log.Info("what the environment says of traces is passed over", "cause", err.Error())
	}
	return told, nil
}

// closeTraces gives away the last spans.
func closeTraces(ctx context.Context, t *traces.Traces, log logr.Logger) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tracesCloseTime)
	defer cancel()
	if err := t.Close(ctx); err != nil {
		log.Info("the last spans are lost", "cause", err.Error())
	}
}

// tracesFaults is told what goes wrong with spans.
type tracesFaults struct {
	log logr.Logger

	mu      sync.Mutex
	begun   bool
	atStart []error
	logged  time.Time
}

// Handle is told of a fault. It logs one a while.
func (f *tracesFaults) Handle(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.begun {
		f.atStart = append(f.atStart, err)
		return
	}
	if now := time.Now(); f.logged.IsZero() || now.Sub(f.logged) >= tracesLogPause {
		f.logged = now
		f.log.Info("spans are lost, as the collector does not take them", "cause", err.Error())
	}
}

// begin returns the faults of the set-up; those that follow are logged.
func (f *tracesFaults) begin() []error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.begun = true
	return f.atStart
}
