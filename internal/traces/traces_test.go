// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package traces_test

import (
	"encoding/hex"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"go.uber.org/goleak"

	"chatrun.dev/operator/internal/chatretry"
	"chatrun.dev/operator/internal/traces"
	"chatrun.dev/operator/test/harness"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	parent     = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	notSampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
)

var created = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func hello(change ...func(*traces.Run)) traces.Run {
	r := traces.Run{
		UID: "5d2f", Namespace: "ns", Name: "hello", Provider: "openai", Model: "m-1", Conversation: "c", Created: created,
	}
	for _, do := range change {
		do(&r)
	}
	return r
}

func within(traceparent string) func(*traces.Run) {
	return func(r *traces.Run) { r.Parent = traceparent }
}

// second is an attempt that was refused after a first part, and is retried.
var second = traces.Attempt{
	Number: 2, Outcome: "Overloaded", Delay: 2 * time.Second, RetryingAt: created.Add(12 * time.Second),
	Failure: &chatretry.Failure{Class: chatretry.Overloaded, HTTPStatus: 529, Code: "sk-code", Message: "is overloaded", Err: os.ErrClosed},
	Call: &traces.Call{
		Type: "Anthropic", Server: "llm.example:8443", Started: created.Add(time.Second), FirstPart: created.Add(3 * time.Second / 2),
		Ended: created.Add(10 * time.Second), InputTokens: 7, OutputTokens: 3,
		Parameters: traces.Parameters{Temperature: "0.5", TopP: "1", MaxOutputTokens: 100},
	},
}

var done = traces.End{Phase: "Succeeded", Reason: "Completed", Attempts: 3, At: created.Add(time.Minute)}

// TestSpansOfARun holds each attribute, and how the spans hang together.
func TestSpansOfARun(t *testing.T) {
	c := harness.StartCollector(nil)
	defer c.Close()
	told := to(t, traces.Collector{URL: c.URL, Ratio: 1})
	good := traces.Attempt{Number: 3, Outcome: "Succeeded", Call: &traces.Call{
		Type: "OpenAI", Server: "llm.example", Started: created.Add(time.Second), Ended: created.Add(2 * time.Second), FinishReason: "Length",
	}}
	told.Ended(hello(), traces.Attempt{Number: 1, Outcome: "WorkerLost", Failure: &chatretry.Failure{Class: chatretry.WorkerLost, Message: "lost"}, Noticed: created.Add(time.Second)})
	told.Ended(hello(), second)
	told.Ended(hello(), good)
	told.Finished(hello(), done)
	if err := told.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	spans := c.Spans()
	if len(spans) != 4 {
		t.Fatalf("%d spans", len(spans))
	}
	run := spans[3]
	if run.GetName() != "chatrun" || len(run.GetParentSpanId()) != 0 || run.GetKind() != tracepb.Span_SPAN_KIND_INTERNAL || !lasts(run, created, done.At) {
		t.Errorf("the run's: %v", run)
	}
	if hex.EncodeToString(run.GetTraceId()) != told.ID(hello()) {
		t.Errorf("the run is said to be in %s, and is in %x", told.ID(hello()), run.GetTraceId())
	}
	for i, want := range []struct{ from, to time.Duration }{{time.Second, time.Second}, {time.Second, 10 * time.Second}, {time.Second, 2 * time.Second}} {
		s := spans[i]
		if string(s.GetParentSpanId()) != string(run.GetSpanId()) || string(s.GetTraceId()) != string(run.GetTraceId()) ||
			s.GetName() != "chat m-1" || s.GetKind() != tracepb.Span_SPAN_KIND_CLIENT || !lasts(s, created.Add(want.from), created.Add(want.to)) {
			t.Errorf("attempt %d: %v", i+1, s)
		}
	}
	same := map[string]any{
		"chatrun.uid": "5d2f", "chatrun.namespace": "ns", "chatrun.name": "hello", "chatrun.provider": "openai",
		"gen_ai.request.model": "m-1", "gen_ai.conversation.id": "c",
	}
	call := with(same, map[string]any{"gen_ai.operation.name": "chat", "gen_ai.request.stream": true})
	for i, want := range []map[string]any{
		with(call, map[string]any{"chatrun.attempt": int64(1), "chatrun.attempt.outcome": "WorkerLost", "error.type": "WorkerLost"}),
		with(call, map[string]any{
			"chatrun.attempt": int64(2), "chatrun.attempt.outcome": "Overloaded", "error.type": "Overloaded", "http.response.status_code": int64(529),
			"chatrun.retry.delay_ms": int64(2000), "chatrun.retry.at": "2026-01-02T03:04:17Z",
			"gen_ai.provider.name": "anthropic", "server.address": "llm.example", "server.port": int64(8443),
			"gen_ai.request.temperature": 0.5, "gen_ai.request.top_p": 1.0, "gen_ai.request.max_tokens": int64(100),
			"gen_ai.usage.input_tokens": int64(7), "gen_ai.usage.output_tokens": int64(3), "gen_ai.response.time_to_first_chunk": 0.5,
		}),
		with(call, map[string]any{
			"chatrun.attempt": int64(3), "chatrun.attempt.outcome": "Succeeded", "gen_ai.provider.name": "openai", "server.address": "llm.example",
			"gen_ai.response.finish_reasons": []string{"length"},
		}),
		with(same, map[string]any{"k8s.namespace.name": "ns", "chatrun.phase": "Succeeded", "chatrun.reason": "Completed", "chatrun.attempts": int64(3)}),
	} {
		if got := harness.SpanAttributes(spans[i]); !reflect.DeepEqual(got, want) {
			t.Errorf("span %d:\n%v\nwant\n%v", i, got, want)
		}
	}
	for i, want := range []tracepb.Status_StatusCode{tracepb.Status_STATUS_CODE_ERROR, tracepb.Status_STATUS_CODE_ERROR, tracepb.Status_STATUS_CODE_UNSET, tracepb.Status_STATUS_CODE_UNSET} {
		if got := spans[i].GetStatus().GetCode(); got != want {
			t.Errorf("status of span %d is %v", i, got)
		}
	}
	if got := spans[1].GetStatus().GetMessage(); got != "is overloaded" {
		t.Errorf("attempt 2 failed with %q", got)
	}
	if _, bodies := c.Requests(); strings.Contains(string(slices.Concat(bodies...)), "sk-code") {
		t.Error("the provider's own code is told")
	}
}

func with(base, more map[string]any) map[string]any {
	all := map[string]any{}
	for _, m := range []map[string]any{base, more} {
		maps.Copy(all, m)
	}
	return all
}

func lasts(s *tracepb.Span, from, to time.Time) bool {
	return s.GetStartTimeUnixNano() == uint64(from.UnixNano()) && s.GetEndTimeUnixNano() == uint64(to.UnixNano())
}

// TestFailedRun: a run that failed says why, as its condition does.
func TestFailedRun(t *testing.T) {
	sink := tracetest.NewInMemoryExporter()
	traces.New(sdktrace.WithSyncer(sink)).Finished(hello(), traces.End{
		Phase: "Failed", Reason: "RetriesExhausted", Failed: true, Message: "3 attempts were made", Attempts: 3, At: created,
	})
	spans := sink.GetSpans()
	if len(spans) != 1 || spans[0].Status.Description != "3 attempts were made" || !slices.ContainsFunc(spans[0].Attributes, is("error.type", "RetriesExhausted")) {
		t.Errorf("%+v", spans)
	}
}

// TestWithoutTraces: where nobody is told, nothing happens.
func TestWithoutTraces(t *testing.T) {
	var none *traces.Traces
	none.Ended(hello(), second)
	none.Finished(hello(), done)
	if err := none.Close(t.Context()); err != nil || none.ID(hello()) != "" {
		t.Error(err, none.ID(hello()))
	}
}

// TestReplicasAgree: two of them that tell of the same run name the same spans, and
// those of other runs and attempts are others.
func TestReplicasAgree(t *testing.T) {
	sink := tracetest.NewInMemoryExporter()
	one, other := traces.New(sdktrace.WithSyncer(sink)), traces.New(sdktrace.WithSyncer(sink))
	one.Ended(hello(), second)
	other.Ended(hello(), second)
	other.Finished(hello(), done)
	other.Finished(hello(func(r *traces.Run) { r.UID = "another" }), done)
	spans := sink.GetSpans()
	if !spans[0].SpanContext.Equal(spans[1].SpanContext) || spans[0].Parent.SpanID() != spans[2].SpanContext.SpanID() {
		t.Errorf("%v, %v below %v", spans[0].SpanContext, spans[1].SpanContext, spans[2].SpanContext)
	}
	seen := map[string]bool{}
	for _, s := range []int{0, 2, 3} {
		seen[spans[s].SpanContext.SpanID().String()] = true
	}
	if len(seen) != 3 || spans[2].SpanContext.TraceID() == spans[3].SpanContext.TraceID() {
		t.Errorf("ids are shared: %v", seen)
	}
}

// TestParent: a run is a child of the span that its annotation names, and of none if
// it names none. Whether that trace is sampled decides.
func TestParent(t *testing.T) {
	for _, tc := range []struct {
		name, annotation string
		ratio            float64
		child            bool
		spans            int
	}{
		{"in a trace", parent, 1, true, 2},
		{"in a trace that is sampled, though few are", parent, 0, true, 2},
		{"in a trace that is not", notSampled, 1, false, 0},
		{"none", "", 1, false, 2},
		{"none, and no traces wanted", "", 0, false, 0},
		{"garbage", "<script>", 1, false, 2},
		{"zeros", "00-00000000000000000000000000000000-0000000000000000-01", 1, false, 2},
		{"cut", parent[:40], 1, false, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sink := tracetest.NewInMemoryExporter()
			told := traces.New(sdktrace.WithSyncer(sink), sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(tc.ratio))))
			r := hello(within(tc.annotation))
			told.Ended(r, second)
			told.Finished(r, done)
			spans := sink.GetSpans()
			if len(spans) != tc.spans {
				t.Fatalf("%d spans, want %d", len(spans), tc.spans)
			}
			if len(spans) == 0 {
				return
			}
			attempt, run := spans[0], spans[1]
			if attempt.Parent.SpanID() != run.SpanContext.SpanID() || attempt.SpanContext.TraceID() != run.SpanContext.TraceID() {
				t.Errorf("attempt in %v below %v, run %v", attempt.SpanContext.TraceID(), attempt.Parent.SpanID(), run.SpanContext)
			}
			if got := run.Parent.SpanID().String() == "b7ad6b7169203331"; got != tc.child {
				t.Errorf("the run is below %v", run.Parent.SpanID())
			}
			if told.ID(r) != run.SpanContext.TraceID().String() {
				t.Errorf("id %s, in %s", told.ID(r), run.SpanContext.TraceID())
			}
		})
	}
}

// FuzzParent: whatever stands in the annotation, there is one trace.
func FuzzParent(f *testing.F) {
	for _, seed := range []string{"", parent, notSampled, "01-" + parent[3:] + "-x", "ff" + parent[2:], strings.ToUpper(parent)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, annotation string) {
		sink := tracetest.NewInMemoryExporter()
		told := traces.New(sdktrace.WithSyncer(sink), sdktrace.WithSampler(sdktrace.AlwaysSample()))
		r := hello(within(annotation))
		told.Ended(r, second)
		told.Finished(r, done)
		spans := sink.GetSpans()
		if len(spans) != 2 || spans[0].SpanContext.TraceID() != spans[1].SpanContext.TraceID() ||
			spans[0].Parent.SpanID() != spans[1].SpanContext.SpanID() || told.ID(r) != spans[1].SpanContext.TraceID().String() {
			t.Errorf("%+v", spans)
		}
	})
}

// is finds an attribute.
func is(key, value string) func(attribute.KeyValue) bool {
	return func(kv attribute.KeyValue) bool { return string(kv.Key) == key && kv.Value.AsString() == value }
}

// BenchmarkTold is what the writer of a status pays for one attempt and the end of its
// run. Encoding and sending are another goroutine's.
func BenchmarkTold(b *testing.B) {
	b.ReportAllocs()
	told := traces.New(sdktrace.WithBatcher(tracetest.NewNoopExporter()))
	defer func() {
		if err := told.Close(b.Context()); err != nil {
			b.Error(err)
		}
	}()
	for b.Loop() {
		told.Ended(hello(), second)
		told.Finished(hello(), done)
	}
}
