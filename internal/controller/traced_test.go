// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/traces"
)

// traced starts a bench whose spans are kept.
func traced(t *testing.T, run *v1alpha1.ChatRun) (*bench, *tracetest.InMemoryExporter) {
	t.Helper()
	b, sink := newBench(t, run, ready()), tracetest.NewInMemoryExporter()
	b.r.traces = traces.New(sdktrace.WithSyncer(sink))
	return b, sink
}

// linesOf sums spans up: a line each.
func linesOf(sink *tracetest.InMemoryExporter) (lines []string) {
	for _, s := range sink.GetSpans() {
		at := map[string]string{}
		for _, a := range s.Attributes {
			at[string(a.Key)] = a.Value.String()
		}
		line := s.Name
		for _, key := range []string{"chatrun.attempt", "chatrun.attempt.outcome", "chatrun.retry.delay_ms", "gen_ai.request.temperature", "chatrun.attempts", "chatrun.phase", "chatrun.reason"} {
			if v, ok := at[key]; ok {
				line += " " + v
			}
		}
		if s.Status.Code == codes.Error {
			line += ": " + s.Status.Description
		}
		lines = append(lines, line)
	}
	return lines
}

// TestTraceOfALife: a lost attempt of another replica, one that is refused, a good
// one, and the run. Nothing is told twice, and nothing before its write stands.
func TestTraceOfALife(t *testing.T) {
	b, sink := traced(t, newRun(untitled, streaming(1), func(run *v1alpha1.ChatRun) {
		run.Status.Worker = "gone"
		run.Spec.Parameters = &v1alpha1.Parameters{Temperature: "0.7"}
	}))
	next := func() {
		t.Helper()
		b.clock.SetTime(b.clock.Now().Add(time.Minute))
		if _, err := b.reconcile(t); err != nil {
			t.Fatal(err)
		}
	}
	next() // lost
	next() // attempt 2
	<-b.caller.asked
	b.caller.answer <- overloaded
	<-b.nudged
	b.fault = conflict
	next()
	if got := len(sink.GetSpans()); got != 1 {
		t.Errorf("%d spans before the write stands", got)
	}
	next()
	next() // attempt 3
	<-b.caller.asked
	b.caller.answer <- nil
	<-b.nudged
	next()
	next()
	lost := workerLost(newRun(streaming(1))).Message
	want := []string{
		"chat m 1 WorkerLost 1000: " + lost,
		"chat m 2 Overloaded 2000 0.7: " + overloaded.Message,
		"chat m 3 Succeeded 0.7",
		"chatrun 3 Succeeded Completed",
	}
	if got := linesOf(sink); !slices.Equal(got, want) {
		t.Errorf("told\n%q, want\n%q", got, want)
	}
	run := sink.GetSpans()[3]
	if got := b.run(t); !run.StartTime.Equal(got.CreationTimestamp.Time) || !run.EndTime.Equal(got.Status.CompletionTime.Time) {
		t.Errorf("the run's span is from %v to %v", run.StartTime, run.EndTime)
	}
}

// TestTraceOfAWriteOfUnknownResult: what was written and not seen is told of once.
func TestTraceOfAWriteOfUnknownResult(t *testing.T) {
	for _, stands := range []bool{true, false} {
		t.Run(fmt.Sprintf("stands %v", stands), func(t *testing.T) {
			b, sink := traced(t, newRun(untitled))
			if _, err := b.reconcile(t); err != nil {
				t.Fatal(err)
			}
			<-b.caller.asked
			b.caller.answer <- wrongKey
			<-b.nudged
			b.fault, b.stands = lostAnswer, stands
			if _, err := b.reconcile(t); err == nil {
				t.Fatal("the write is said to have been answered")
			}
			for range 3 {
				if _, err := b.reconcile(t); err != nil {
					t.Fatal(err)
				}
			}
			want := []string{"chat m 1 AuthenticationFailed: " + wrongKey.Message, "chatrun 1 Failed AuthenticationFailed: " + messageOf(b.run(t))}
			if got := linesOf(sink); !slices.Equal(got, want) {
				t.Errorf("told\n%q, want\n%q", got, want)
			}
		})
	}
}
