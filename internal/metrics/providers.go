// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// MaxProviders bounds the providers that are counted by themselves. Each has some
// 120 series, which are there from the beginning; further providers share those of
// OtherProviders.
const MaxProviders = 100

// OtherProviders is the label of those that are beyond the bound, and of those that
// do not exist any more. No object can be called so.
const OtherProviders = "other"

// vector is what series are deleted from.
type vector interface {
	DeletePartialMatch(prometheus.Labels) int
}

// providers gives providers their label. As whoever may create ChatProviders chooses
// their names, only those get one that exist, up to MaxProviders, and it goes with
// them.
type providers struct {
	vectors []vector
	// begin makes the series of a provider, so that its first failure is seen to come.
	begin func(label string)

	mu     sync.RWMutex
	exists func(provider string) bool
	known  map[string]bool
}

// with calls count with a provider's label. Nothing is forgotten meanwhile, so that
// nothing is counted by a label that was.
func (p *providers) with(provider string, count func(label string)) {
	p.mu.RLock()
	if p.known[provider] {
		count(provider)
		p.mu.RUnlock()
		return
	}
	p.mu.RUnlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	// It is looked up under the lock: who deletes it afterwards forgets it afterwards.
	if len(p.known) < MaxProviders && p.exists != nil && p.exists(provider) {
		if p.known == nil {
			p.known = map[string]bool{}
		}
		p.known[provider] = true
		p.begin(provider)
	}
	if !p.known[provider] {
		provider = OtherProviders
	}
	count(provider)
}

func (p *providers) forget(provider string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.known[provider] {
		return
	}
	delete(p.known, provider)
	for _, v := range p.vectors {
		v.DeletePartialMatch(prometheus.Labels{labelProvider: provider})
	}
}
