// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

const (
	// firstConflictDelay is about what the cache needs to catch up with a write.
	firstConflictDelay = 10 * time.Millisecond
	// maxConflictDelay bounds the wait: a conflict is no failure, and someone who
	// keeps editing a run must not keep it waiting.
	maxConflictDelay = time.Second
	// liveAfterConflicts is how many conflicts in a row the cache may cause
	// before we read past it.
	liveAfterConflicts = 2
)

// conflicts counts, by name, the writes in a row that were refused because the
// object had changed since it was read.
type conflicts struct {
	mu     sync.Mutex
	counts map[types.NamespacedName]int
}

// again counts one more, and returns how long to wait before reading again.
func (c *conflicts) again(key types.NamespacedName) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts == nil {
		c.counts = map[types.NamespacedName]int{}
	}
	c.counts[key]++
	delay := firstConflictDelay
	for range c.counts[key] - 1 {
		if delay *= 2; delay >= maxConflictDelay {
			return maxConflictDelay
		}
	}
	return delay
}

// wantLive says whether the cache was too old too often.
func (c *conflicts) wantLive(key types.NamespacedName) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts[key] >= liveAfterConflicts
}

// forget ends the row.
func (c *conflicts) forget(key types.NamespacedName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.counts, key)
}
