// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"chatrun.dev/operator/api/v1alpha1"
)

// watch is `kubectl get chatruns -w` in a process of its own.
type watch struct {
	cmd    *exec.Cmd
	cancel context.CancelFunc
	ended  chan struct{}

	mu    sync.Mutex
	lines []watchLine
	news  chan struct{} // closed and replaced with every line
}

// watchLine is what a line of the watch says.
type watchLine struct {
	run        string
	phase      v1alpha1.Phase
	attempt    int
	retryingAt time.Time // zero if the line tells none
	at         time.Time // when it was printed
}

// watch starts kubectl, and shows every line that it prints until stop.
func (c *cluster) watch(ctx context.Context, out *screen) (*watch, error) {
	// It outlives an interrupt until everything is undone in order.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	w := &watch{
		cmd:    c.command(ctx, "get", "chatruns", "--namespace="+c.namespace, "--watch"),
		cancel: cancel,
		ended:  make(chan struct{}),
		news:   make(chan struct{}),
	}
	pipe, err := w.cmd.StdoutPipe()
	if err != nil {
		cancel()
		return nil, err
	}
	out.say("demo", "kubectl get chatruns -w")
	if err := w.cmd.Start(); err != nil {
		cancel()
		return nil, fmt.Errorf("starting kubectl: %w", err)
	}
	go func() {
		defer close(w.ended)
		for lines := bufio.NewScanner(pipe); lines.Scan(); {
			at := time.Now()
			out.say("kubectl", "%s", strings.TrimRight(lines.Text(), " "))
			if line, ok := parseWatchLine(lines.Text()); ok {
				line.at = at
				w.add(line)
			}
		}
		_ = w.cmd.Wait() // it ends by our kill
	}()
	return w, nil
}

func (w *watch) add(line watchLine) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, line)
	close(w.news)
	w.news = make(chan struct{})
}

// of returns the lines of a run so far, and a channel that the next line closes.
func (w *watch) of(run string) ([]watchLine, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	lines := slices.DeleteFunc(slices.Clone(w.lines), func(l watchLine) bool { return l.run != run })
	return lines, w.news
}

// waitFor waits until a run's last line shows the phase.
func (w *watch) waitFor(ctx context.Context, run string, phase v1alpha1.Phase) error {
	for {
		lines, news := w.of(run)
		if len(lines) > 0 && lines[len(lines)-1].phase == phase {
			return nil
		}
		select {
		case <-news:
		case <-w.ended:
			return fmt.Errorf("kubectl get chatruns -w ended by itself")
		case <-ctx.Done():
			return fmt.Errorf("kubectl get chatruns -w never showed %s as %s: %w", run, phase, context.Cause(ctx))
		}
	}
}

// stop ends kubectl.
func (w *watch) stop() {
	w.cancel()
	<-w.ended
}

// phases are the words that a line is recognised by.
var phases = []v1alpha1.Phase{
	v1alpha1.PhasePending, v1alpha1.PhaseStreaming, v1alpha1.PhaseRetrying, v1alpha1.PhaseSuspended,
	v1alpha1.PhaseSucceeded, v1alpha1.PhaseFailed, v1alpha1.PhaseCancelled,
}

// parseWatchLine reads a printed line: the name, then somewhere the phase, then
// the attempt and the time of the next one. Columns before and after may be
// empty, so they have no fixed number.
func parseWatchLine(text string) (watchLine, bool) {
	fields := strings.Fields(text)
	at := slices.IndexFunc(fields, func(f string) bool { return slices.Contains(phases, v1alpha1.Phase(f)) })
	if at < 1 {
		return watchLine{}, false
	}
	line := watchLine{run: fields[0], phase: v1alpha1.Phase(fields[at])}
	if rest := fields[at+1:]; len(rest) > 0 {
		if attempt, err := strconv.Atoi(rest[0]); err == nil {
			line.attempt = attempt
			rest = rest[1:]
		}
		if len(rest) > 0 {
			if next, err := time.Parse(time.RFC3339, rest[0]); err == nil {
				line.retryingAt = next
			}
		}
	}
	return line, true
}
