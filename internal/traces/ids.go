// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package traces

import (
	"context"
	"crypto/sha256"
	"strconv"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// traceID is that of a run which nobody else's trace holds.
func traceID(uid string) (id trace.TraceID) {
	sum := sha256.Sum256([]byte("trace/" + uid))
	copy(id[:], sum[:])
	return id
}

// spanID is that of an attempt, and with 0 that of the run.
func spanID(uid string, attempt int32) (id trace.SpanID) {
	sum := sha256.Sum256([]byte("span/" + uid + "/" + strconv.Itoa(int(attempt))))
	copy(id[:], sum[:])
	return id
}

// remote reads a traceparent. What is none gives a context that is not valid.
func remote(traceparent string) trace.SpanContext {
	if traceparent == "" {
		return trace.SpanContext{}
	}
	carrier := propagation.MapCarrier{"traceparent": traceparent}
	return trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), carrier))
}

type knownKey struct{}

type identity struct {
	uid  string
	span trace.SpanID
}

// known says which span the next one in a context is.
func known(ctx context.Context, uid string, span trace.SpanID) context.Context {
	return context.WithValue(ctx, knownKey{}, identity{uid, span})
}

// ids gives spans the ids that known has said.
type ids struct{}

// NewIDs is asked for a span without a parent.
func (ids) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	who, _ := ctx.Value(knownKey{}).(identity)
	return traceID(who.uid), who.span
}

// NewSpanID is asked for one with a parent.
func (ids) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	who, _ := ctx.Value(knownKey{}).(identity)
	return who.span
}
