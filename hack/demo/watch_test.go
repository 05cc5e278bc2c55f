// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"chatrun.dev/operator/api/stream"
	"chatrun.dev/operator/api/v1alpha1"
)

func TestParseWatchLine(t *testing.T) {
	next := time.Date(2030, 1, 2, 3, 4, 5, 600, time.UTC)
	for _, c := range []struct {
		text string
		want watchLine
		ok   bool
	}{
		{"NAME    PROVIDER   MODEL   PHASE   ATTEMPT   RETRYING-AT   LAST-ERROR   AGE", watchLine{}, false},
		{"hello   openai             Pending                                      0s", watchLine{run: "hello", phase: v1alpha1.PhasePending}, true},
		{
			"hello   openai   m   Streaming   2          Overloaded   1s",
			watchLine{run: "hello", phase: v1alpha1.PhaseStreaming, attempt: 2}, true,
		},
		{
			"hello   openai   m   Retrying   1   2030-01-02T03:04:05.0000006Z   Overloaded   1s",
			watchLine{run: "hello", phase: v1alpha1.PhaseRetrying, attempt: 1, retryingAt: next}, true,
		},
		{"Succeeded", watchLine{}, false},
		{"", watchLine{}, false},
	} {
		got, ok := parseWatchLine(c.text)
		if ok != c.ok || got.run != c.want.run || got.phase != c.want.phase || got.attempt != c.want.attempt ||
			!got.retryingAt.Equal(c.want.retryingAt) {
			t.Errorf("%q: %+v, %t, want %+v, %t", c.text, got, ok, c.want, c.ok)
		}
	}
}

func TestFrames(t *testing.T) {
	text := ": heartbeat\n\n" +
		"id: 1\nevent: status\ndata: {\"attempt\":1}\n\n" +
		"event:message_part\ndata:{\"text\":\" a: b\"}\n\n" +
		"event: done\ndata: {}\n" // cut before its end: no frame
	var got []string
	for e, err := range frames(strings.NewReader(text)) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(e.name)+" "+string(e.data))
	}
	want := []string{`status {"attempt":1}`, `message_part {"text":" a: b"}`}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestShowEvent(t *testing.T) {
	var b strings.Builder
	out := newScreen(&b, func() time.Time { return time.Unix(0, 0) })
	for _, e := range []event{
		{name: stream.EventStatus, data: []byte(`{"phase":"Retrying","attempt":1,"uid":"u"}`)},
		{name: stream.EventRetry, data: []byte(`{"attempt":1}`)},
		{name: stream.EventMessagePart, data: []byte(`{"reasoning":"hm"}`)},
		{name: stream.EventMessagePart, data: []byte(`{"text":"Hel"}`)},
		{name: stream.EventMessagePart, data: []byte(`{"text":"lo"}`)},
	} {
		if err := showEvent(out, e); err != nil {
			t.Fatal(err)
		}
	}
	out.endLine()
	for _, want := range []string{"status {… phase: Retrying, attempt: 1 …}\n", "retry {\"attempt\":1}\n", "thinking hm\n", "Hello\n"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is missing in:\n%s", want, b.String())
		}
	}
}

func TestReaperKnowsItsOwn(t *testing.T) {
	table := parseTable("    1 /sbin/init\n  20 etcd --data-dir=/c/.demo/run/etcd\n" +
		"30 kubectl --kubeconfig=/c/.demo/kubeconfig get pods\n  40 bin/manager --kubeconfig=/c/.demo/run/m\nx y\n" +
		"50 etcd --data-dir=/other/.demo/run/etcd\n")
	if got, want := ours(table, "/c/.demo/run"), []int{20, 40}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
