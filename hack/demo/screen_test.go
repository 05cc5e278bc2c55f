// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestScreenInterleavesLanes(t *testing.T) {
	var b strings.Builder
	now := time.Unix(0, 0)
	s := newScreen(&b, func() time.Time { return now })
	s.say("demo", "starting %s", "it")
	now = now.Add(1500 * time.Millisecond)
	s.text("text", "One")
	s.text("text", " two")
	s.say("kubectl", "hello Streaming")
	s.text("text", " three\nfour")
	s.endLine()
	s.endLine()
	s.plain("end")
	want := "  0.0s  demo     starting it\n" +
		"  1.5s  text     One two\n" +
		"  1.5s  kubectl  hello Streaming\n" +
		"  1.5s  text     three\n" +
		"  1.5s  text     four\n" +
		"end\n"
	if b.String() != want {
		t.Errorf("printed:\n%s\nwant:\n%s", b.String(), want)
	}
}

func TestScreenBreaksLongText(t *testing.T) {
	var b strings.Builder
	s := newScreen(&b, func() time.Time { return time.Unix(0, 0) })
	for range 40 {
		s.text("text", " word")
	}
	s.endLine()
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if len(lines) != 3 {
		t.Fatalf("%d lines:\n%s", len(lines), b.String())
	}
	for _, line := range lines {
		if len(line) > textWidth+len("  0.0s  text     ") {
			t.Errorf("%d characters: %q", len(line), line)
		}
	}
}

func TestWrap(t *testing.T) {
	got := wrap("one two  three\nfour", 8)
	if want := []string{"one two", "three", "four"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
