// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package places

import (
	"maps"
	"time"
)

// Standing is how a provider stands at one moment.
type Standing struct {
	// Provider is its UID.
	Provider string
	// Limit is its own bound; 0 if it has none.
	Limit int
	// Held are the places that are taken, and Waiting the runs that wait for one.
	Held, Waiting int
	// Gates are the models whose gate lets only so many under way, and Width how many
	// those let under way, all together.
	Gates, Width int
}

// Standings returns the providers of which something is known, in no order.
func (p *Places) Standings() []Standing {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	all := make([]Standing, 0, len(p.providers))
	for uid, to := range p.providers {
		s := Standing{Provider: uid, Limit: to.limit, Held: to.held}
		for g := range maps.Values(to.gates) {
			s.Waiting += g.waiting
			if g.width > 0 && !g.forgotten(now) {
				s.Gates++
				s.Width += g.width
			}
		}
		all = append(all, s)
	}
	return all
}
