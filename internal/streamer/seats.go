// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import "sync"

// seats counts the readers that are served or wait, over all runs, by namespace
// and by run. It goes by names, since who waits for a run knows no UID.
type seats struct {
	mu         sync.Mutex
	total      int
	namespaces map[string]int
	runs       map[name]int
}

func newSeats() seats { return seats{namespaces: map[string]int{}, runs: map[name]int{}} }

// take takes a seat, unless there are as many as allowed; 0 allows any number.
// Each seat taken is to be given back.
func (s *seats) take(run name, maxTotal, maxRun int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	// A quarter is left to others, or whoever may read in one namespace could keep
	// all others out by waiting for runs that are not there.
	maxNamespace := maxTotal - maxTotal/4
	if maxTotal > 0 && (s.total >= maxTotal || s.namespaces[run.namespace] >= maxNamespace) || maxRun > 0 && s.runs[run] >= maxRun {
		return false
	}
	s.total++
	s.namespaces[run.namespace]++
	s.runs[run]++
	return true
}

func (s *seats) giveBack(run name) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total--
	if s.namespaces[run.namespace]--; s.namespaces[run.namespace] == 0 {
		delete(s.namespaces, run.namespace)
	}
	if s.runs[run]--; s.runs[run] == 0 {
		delete(s.runs, run)
	}
}

func (s *seats) taken() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total
}
