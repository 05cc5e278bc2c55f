// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// textWidth is where a line of streamed text is broken, so that with the lane's
// name before it, it fits a terminal of 100 columns.
const textWidth = 80

// screen interleaves what several sources print, a lane each: the time since
// the start, the lane's name, and what it has to say. Only lines and text that
// ends where it ends are written, so a log file reads like a terminal.
type screen struct {
	mu    sync.Mutex
	w     io.Writer
	now   func() time.Time
	start time.Time
	// lane is the one whose text stands on the open line, "" if no line is open,
	// and column how far it reaches.
	lane   string
	column int
}

func newScreen(w io.Writer, now func() time.Time) *screen {
	return &screen{w: w, now: now, start: now()}
}

// say prints a line.
func (s *screen) say(lane, format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.breakLine()
	s.begin(lane)
	s.print(fmt.Sprintf(format, args...))
	s.breakLine()
}

// text prints a fragment as it comes, after the last one of its lane if nobody
// printed in between.
func (s *screen) text(lane, fragment string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, line := range strings.Split(fragment, "\n") {
		if i > 0 || s.lane != lane {
			s.breakLine()
		}
		if s.lane == lane && s.column+utf8.RuneCountInString(line) > textWidth && strings.HasPrefix(line, " ") {
			s.breakLine()
		}
		if line == "" {
			continue
		}
		if s.lane == "" {
			s.begin(lane)
			line = strings.TrimPrefix(line, " ")
		}
		s.print(line)
	}
}

// endLine ends the open line, if there is one.
func (s *screen) endLine() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.breakLine()
}

// plain prints lines that belong to no lane.
func (s *screen) plain(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.breakLine()
	s.print(text + "\n")
}

func (s *screen) begin(lane string) {
	s.print(fmt.Sprintf("%5.1fs  %-9s", s.now().Sub(s.start).Seconds(), lane))
	s.lane, s.column = lane, 0
}

func (s *screen) breakLine() {
	if s.lane != "" {
		s.print("\n")
		s.lane = ""
	}
}

// print writes to the terminal, whose failure there is nobody to tell of.
func (s *screen) print(text string) {
	_, _ = io.WriteString(s.w, text)
	s.column += utf8.RuneCountInString(text)
}
