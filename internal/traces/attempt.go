// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package traces

import (
	"cmp"
	"net"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.41.0"
	"go.opentelemetry.io/otel/trace"

	"chatrun.dev/operator/internal/chatretry"
)

// Attempt is one that ended.
type Attempt struct {
	// Number is from 1.
	Number int32
	// Outcome is what became of it, by the names that metrics use.
	Outcome string
	// Failure is set if it failed.
	Failure *chatretry.Failure
	// Call is what was made of it; nil if nobody knows, as of one that was lost with
	// its replica. Such an attempt is told of as a moment, at Noticed.
	Call    *Call
	Noticed time.Time
	// RetryingAt is when the next attempt may be made, after Delay; zero if none is.
	RetryingAt time.Time
	Delay      time.Duration
}

// Call is one call to a provider.
type Call struct {
	// Type is that of the provider, Server its host, with a port if its URL has one.
	Type, Server string
	Parameters   Parameters
	// Started and Ended are when, FirstPart when the first part came; zero if none did.
	Started, FirstPart, Ended time.Time
	FinishReason              string
	// InputTokens and OutputTokens are what the provider reported.
	InputTokens, OutputTokens int64
}

// Parameters are what the run asked for. What is empty was left to the provider.
type Parameters struct {
	// Temperature and TopP are decimal numbers as text.
	Temperature, TopP string
	MaxOutputTokens   int64
}

// Ended tells of an attempt that has.
func (t *Traces) Ended(r Run, a Attempt) {
	if t == nil {
		return
	}
	ctx, _ := t.begin(r)
	from, to := a.Noticed, a.Noticed
	attributes := append(of(r), semconv.GenAIOperationNameChat, semconv.GenAIRequestStream(true),
		attemptKey.Int(int(a.Number)), outcomeKey.String(a.Outcome))
	if a.Call != nil {
		attributes = append(attributes, called(a.Call)...)
		if !a.Call.Started.IsZero() {
			from, to = a.Call.Started, a.Call.Ended
		}
	}
	if !a.RetryingAt.IsZero() {
		attributes = append(attributes, delayKey.Int64(a.Delay.Milliseconds()), retryingAtKey.String(a.RetryingAt.UTC().Format(time.RFC3339Nano)))
	}
	_, span := t.tracer.Start(known(ctx, r.UID, spanID(r.UID, a.Number)), strings.TrimSpace("chat "+r.Model),
		trace.WithSpanKind(trace.SpanKindClient), trace.WithTimestamp(from), trace.WithAttributes(attributes...))
	if f := a.Failure; f != nil {
		// Not its code: that is the provider's own text, and nobody has looked at it.
		span.SetAttributes(semconv.ErrorTypeKey.String(string(f.Class)))
		if f.HTTPStatus != 0 {
			span.SetAttributes(semconv.HTTPResponseStatusCode(f.HTTPStatus))
		}
		span.SetStatus(codes.Error, f.Message)
	}
	span.End(trace.WithTimestamp(to))
}

// called is what the conventions of generative AI say of a call.
func called(c *Call) []attribute.KeyValue {
	all := []attribute.KeyValue{semconv.GenAIProviderNameKey.String(strings.ToLower(c.Type))}
	if host, port, err := net.SplitHostPort(c.Server); err == nil {
		all = append(all, semconv.ServerAddress(host))
		if n, err := strconv.Atoi(port); err == nil {
			all = append(all, semconv.ServerPort(n))
		}
	} else if c.Server != "" {
		all = append(all, semconv.ServerAddress(strings.Trim(c.Server, "[]")))
	}
	all = append(all, asked(c.Parameters)...)
	if c.FinishReason != "" {
		all = append(all, semconv.GenAIResponseFinishReasons(cmp.Or(finishReasons[c.FinishReason], c.FinishReason)))
	}
	if c.InputTokens > 0 || c.OutputTokens > 0 {
		all = append(all, semconv.GenAIUsageInputTokens(int(c.InputTokens)), semconv.GenAIUsageOutputTokens(int(c.OutputTokens)))
	}
	if !c.FirstPart.IsZero() {
		all = append(all, semconv.GenAIResponseTimeToFirstChunk(c.FirstPart.Sub(c.Started).Seconds()))
	}
	return all
}

func asked(p Parameters) (all []attribute.KeyValue) {
	if v, err := strconv.ParseFloat(p.Temperature, 64); err == nil {
		all = append(all, semconv.GenAIRequestTemperature(v))
	}
	if v, err := strconv.ParseFloat(p.TopP, 64); err == nil {
		all = append(all, semconv.GenAIRequestTopP(v))
	}
	if p.MaxOutputTokens > 0 {
		all = append(all, semconv.GenAIRequestMaxTokens(int(p.MaxOutputTokens)))
	}
	return all
}

// finishReasons are the conventions' words for ours.
var finishReasons = map[string]string{"Stop": "stop", "Length": "length", "Other": "other"}
