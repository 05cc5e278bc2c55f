// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package traces tells of runs and their attempts as OpenTelemetry spans:
// docs/tracing.md lists what they say. A run is one span, each of its attempts a
// child of it.
//
// A span is made when it has ended, of what is known by then, after the write of the
// status that tells of it. So a run may be told of by one replica and its attempts by
// others: the ids follow from the run's UID alone. No span holds a question, an
// answer, a title, or a key.
package traces

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.41.0"
	"go.opentelemetry.io/otel/trace"
)

// scope names who made the spans.
const scope = "chatrun.dev/operator"

// Traces make spans. A nil one makes none. Its methods may be called by any
// goroutine.
type Traces struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
	// abandon ends the requests that are under way, and lets none follow.
	abandon func()
}

// New returns Traces whose spans go where the options say.
func New(options ...sdktrace.TracerProviderOption) *Traces {
	provider := sdktrace.NewTracerProvider(append(options, sdktrace.WithIDGenerator(ids{}))...)
	return &Traces{
		provider: provider, tracer: provider.Tracer(scope, trace.WithSchemaURL(semconv.SchemaURL)),
		abandon: func() {},
	}
}

// Close gives away what has not been yet, until ctx ends. Nothing is left of t then.
func (t *Traces) Close(ctx context.Context) error {
	if t == nil {
		return nil
	}
	defer context.AfterFunc(ctx, t.abandon)()
	// By ctx it would return while others still work.
	return errors.Join(t.provider.Shutdown(context.WithoutCancel(ctx)), ctx.Err())
}

// Run is one ChatRun.
type Run struct {
	UID, Namespace, Name string
	// Provider is the name of its ChatProvider, Model what it is asked with.
	Provider, Model string
	// Conversation is that of the runs that go on from each other; empty without one.
	Conversation string
	// Parent is the trace context that it was created in, as a W3C traceparent. The
	// run is a trace of its own if it is none.
	Parent  string
	Created time.Time
}

// End is how a run finished.
type End struct {
	// Phase and Reason are those of its status. Failed says that the run did, and
	// Message then why, as its condition does.
	Phase, Reason, Message string
	Failed                 bool
	Attempts               int32
	At                     time.Time
}

// ID is the hexadecimal id of the trace that a run is in; empty without traces.
func (t *Traces) ID(r Run) string {
	if t == nil {
		return ""
	}
	if parent := remote(r.Parent); parent.IsValid() {
		return parent.TraceID().String()
	}
	return traceID(r.UID).String()
}

// Finished tells of a run that has.
func (t *Traces) Finished(r Run, e End) {
	if t == nil {
		return
	}
	_, span := t.begin(r)
	span.SetAttributes(phaseKey.String(e.Phase), reasonKey.String(e.Reason), attemptsKey.Int(int(e.Attempts)))
	if e.Failed {
		span.SetAttributes(semconv.ErrorTypeKey.String(e.Reason))
		span.SetStatus(codes.Error, e.Message)
	}
	span.End(trace.WithTimestamp(e.At))
}

// begin starts a run's span anew: all that are started of one run are alike, and one
// alone is ever ended. Whether it is sampled passes to its attempts.
func (t *Traces) begin(r Run) (context.Context, trace.Span) {
	ctx := context.Background()
	if parent := remote(r.Parent); parent.IsValid() {
		ctx = trace.ContextWithRemoteSpanContext(ctx, parent)
	}
	attributes := append(of(r), semconv.K8SNamespaceName(r.Namespace))
	return t.tracer.Start(known(ctx, r.UID, spanID(r.UID, 0)), "chatrun",
		trace.WithTimestamp(r.Created), trace.WithAttributes(attributes...))
}

// of is what all spans say of a run.
func of(r Run) []attribute.KeyValue {
	all := []attribute.KeyValue{uidKey.String(r.UID), namespaceKey.String(r.Namespace), nameKey.String(r.Name), providerKey.String(r.Provider)}
	if r.Model != "" {
		all = append(all, semconv.GenAIRequestModel(r.Model))
	}
	if r.Conversation != "" {
		all = append(all, semconv.GenAIConversationID(r.Conversation))
	}
	return all
}

// The attributes that no convention has a name for.
const (
	uidKey        = attribute.Key("chatrun.uid")
	namespaceKey  = attribute.Key("chatrun.namespace")
	nameKey       = attribute.Key("chatrun.name")
	providerKey   = attribute.Key("chatrun.provider")
	phaseKey      = attribute.Key("chatrun.phase")
	reasonKey     = attribute.Key("chatrun.reason")
	attemptsKey   = attribute.Key("chatrun.attempts")
	attemptKey    = attribute.Key("chatrun.attempt")
	outcomeKey    = attribute.Key("chatrun.attempt.outcome")
	delayKey      = attribute.Key("chatrun.retry.delay_ms")
	retryingAtKey = attribute.Key("chatrun.retry.at")
)
