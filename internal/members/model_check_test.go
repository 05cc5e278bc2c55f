// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package members

import (
	"flag"
	"maps"
	"strings"
	"testing"
)

// deep makes the searches go on to the end, or nearly, at a finer scale as well.
var deep = flag.Bool("deep", false, "search the model of the protocol at a finer scale, and with more faults at once")

// manyWorlds take minutes, and gigabytes.
const manyWorlds = 30_000_000

// TestNoTwoOwners: there is no world in which two attempts of the run are under way
// in processes that run and had their fence, nor one in which an attempt is started
// that was not counted, or twice.
func TestNoTwoOwners(t *testing.T) {
	searches := map[string]bounded{
		"late watches":  {2, coarse, bounds{}},
		"answers lost":  {2, coarse, bounds{losses: 1}},
		"stopped":       {2, coarse, bounds{stops: 1}},
		"dies":          {2, coarse, bounds{crashes: 1}},
		"Lease deleted": {2, coarse, bounds{deletions: 1}},
		"drains":        {2, coarse, bounds{drains: 1}},
		"three":         {3, coarse, bounds{}},
	}
	most := someWorlds
	if testing.Short() {
		most /= 10
	}
	if *deep {
		most = manyWorlds
		maps.Copy(searches, map[string]bounded{
			"fine":              {2, fine, bounds{}},
			"fine, stopped":     {2, fine, bounds{stops: 1}},
			"stopped, lost":     {2, coarse, bounds{stops: 1, losses: 1}},
			"stopped twice":     {2, coarse, bounds{stops: 2}},
			"stopped, deleted":  {2, coarse, bounds{stops: 1, deletions: 1}},
			"deleted twice":     {2, coarse, bounds{deletions: 2}},
			"dies, deleted":     {2, coarse, bounds{crashes: 1, deletions: 1}},
			"drains, deleted":   {2, coarse, bounds{drains: 1, deletions: 1}},
			"three, stopped":    {3, coarse, bounds{stops: 1}},
			"three, fine, dies": {3, fine, bounds{crashes: 1}},
		})
	}
	for name, c := range searches {
		t.Run(name, func(t *testing.T) {
			r := protocol(c.scale)
			start := cold(c.nodes, c.bounds)
			if c.nodes > 2 {
				start = warm(c.nodes, &r, c.bounds) // there are too many worlds to begin earlier
			}
			s, wrong := explore(c.nodes, r, start, most, false)
			t.Log(s)
			if wrong != "" {
				t.Error(wrong)
			}
		})
	}
}

// bounded is what a search looks at.
type bounded struct {
	nodes int
	scale scale
	bounds
}

// TestBrokenRules: with any rule of the protocol broken there is such a world.
func TestBrokenRules(t *testing.T) {
	for name, c := range map[string]struct {
		bounds
		breaks func(*rules)
	}{
		"a late watch takes a replica for gone": {bounds{}, func(r *rules) { r.confirmed, r.asks = false, false }},
		"nobody asks before a take-over":        {bounds{}, func(r *rules) { r.asks = false }},
		"the fence comes after the lapse":       {bounds{}, func(r *rules) { r.held = r.lease + 1 }},
		"a renewal counts from its answer":      {bounds{}, func(r *rules) { r.early = false }},
		"a late renewal does not fence":         {bounds{stops: 1}, func(r *rules) { r.lateFences = false }},
		"a start does not look whether it may":  {bounds{}, func(r *rules) { r.checked = false }},
		"a deleted Lease is one that lapsed":    {bounds{deletions: 1}, func(r *rules) { r.patient = false }},
		"writes are not locked":                 {bounds{}, func(r *rules) { r.locked = false }},
		"what is owed is started unseen":        {bounds{losses: 1}, func(r *rules) { r.owedLive = false }},
		"what is owed outlives a fence":         {bounds{}, func(r *rules) { r.owedVoid = false }},
	} {
		t.Run(name, func(t *testing.T) {
			r := protocol(coarse)
			c.breaks(&r)
			s, wrong := explore(2, r, cold(2, c.bounds), manyWorlds, false)
			what, story, _ := strings.Cut(wrong, ":")
			t.Logf("%d worlds: %s%s", len(s.from), what, story)
			if story == "" {
				t.Error("the model finds nothing wrong with that")
			}
		})
	}
}

// TestNothingIsStuck: once faults end, every run can come to an end, and every replica
// that runs to be held.
func TestNothingIsStuck(t *testing.T) {
	kinds := map[string]bounds{"late watches": {}}
	if *deep {
		kinds["dies"], kinds["stopped"] = bounds{crashes: 1}, bounds{stops: 1}
		kinds["Lease deleted"], kinds["answers lost"] = bounds{deletions: 1}, bounds{losses: 1}
	}
	for name, b := range kinds {
		t.Run(name, func(t *testing.T) {
			s, wrong := explore(2, protocol(coarse), cold(2, b), manyWorlds, true)
			if wrong != "" || s.cut > 0 {
				t.Fatal(s, wrong)
			}
			t.Logf("%v, and %d steps between them", s, len(s.edges))
			if n, story := s.stuck(allRun, isFinished); n > 0 {
				t.Errorf("from %d worlds the run comes to no end:%s", n, story)
			}
			if n, story := s.stuck(runs0, held0|isFinished); n > 0 {
				t.Errorf("from %d worlds the replica is never held again:%s", n, story)
			}
		})
	}
}
