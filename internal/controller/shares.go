// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"sync"
	"time"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/members"
)

// Shares is a Share that is set from outside, by whoever knows the members. It may
// be used by many at once.
type Shares struct {
	worker string
	falls  func(*v1alpha1.ChatRun) bool

	mu            sync.Mutex
	buckets       members.Buckets
	moved, rekept chan struct{}
	// due is when Rekeep was called last.
	due time.Time
}

// NewShares returns one without a bucket for the replica of that worker's name. falls
// says whether a run falls to it whatever its bucket, as those of a provider with a
// limit do; nil if there is no such run. When it may say otherwise of a run than
// before, Rekeep is due.
func NewShares(worker string, falls func(*v1alpha1.ChatRun) bool) *Shares {
	return &Shares{worker: worker, falls: falls, moved: make(chan struct{}), rekept: make(chan struct{})}
}

// Set sets the buckets.
func (s *Shares) Set(buckets members.Buckets) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if buckets == s.buckets {
		return
	}
	s.buckets = buckets
	close(s.moved)
	s.moved = make(chan struct{})
}

// Rekeep has Keep asked again of all runs.
func (s *Shares) Rekeep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.rekept)
	s.rekept, s.due = make(chan struct{}), time.Now()
}

// rekeptAt returns when Keep was last said to have other answers.
func (s *Shares) rekeptAt() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.due
}

// Share implements Share.
func (s *Shares) Share() (members.Buckets, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buckets, s.moved
}

// KeepChanged implements Share.
func (s *Shares) KeepChanged() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rekept
}

// Keep implements Share: an owner watches its run until it ends, whatever becomes
// of the shares, and whoever has the run that another goes on from must know of that
// one.
func (s *Shares) Keep(run *v1alpha1.ChatRun) bool {
	return run.Status.Worker == s.worker || awaitsParent(run) || s.falls != nil && s.falls(run)
}

var _ Share = (*Shares)(nil)
