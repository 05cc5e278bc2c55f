// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package rows

import (
	"slices"
	"strings"
	"testing"

	"chatrun.dev/operator/internal/chattest"
	"chatrun.dev/operator/test/bench/actor"
	"chatrun.dev/operator/test/bench/figures"
)

// TestAccount holds ledgers against what statuses counted.
func TestAccount(t *testing.T) {
	one, two := actor.Prompt("soak-1"), actor.Prompt("soak-2")
	tally := func(key string, count, completed, most int) chattest.KeyTally {
		return chattest.KeyTally{Key: key, Purpose: chattest.PurposeAnswer, Tally: chattest.Tally{Count: count, Completed: completed, MaxLive: most}}
	}
	for _, tc := range []struct {
		name     string
		keys     []chattest.KeyTally
		strays   int
		attempts map[string]int
		wrong    string // part of what is wrong, "" for nothing
	}{
		{"all counted", []chattest.KeyTally{tally(one, 2, 1, 1), tally(two, 1, 1, 1)}, 0, map[string]int{one: 2, two: 1}, ""},
		{"counted and never sent", []chattest.KeyTally{tally(one, 1, 1, 1), tally(two, 1, 1, 1)}, 0, map[string]int{one: 2, two: 1}, ""},
		{"not counted", []chattest.KeyTally{tally(one, 2, 1, 1), tally(two, 1, 1, 1)}, 0, map[string]int{one: 1, two: 1}, "asked 2 times and counted 1"},
		{"nobody's", []chattest.KeyTally{tally(one, 1, 1, 1), tally(two, 1, 1, 1)}, 0, map[string]int{one: 1}, "counted 0"},
		{"never asked", []chattest.KeyTally{tally(one, 1, 1, 1)}, 0, map[string]int{one: 1, two: 1}, "never asked"},
		{"twice at once", []chattest.KeyTally{tally(one, 2, 2, 2), tally(two, 1, 1, 1)}, 0, map[string]int{one: 2, two: 1}, "2 times at once"},
		{"strays", []chattest.KeyTally{tally(one, 1, 1, 1), tally(two, 1, 1, 1)}, 3, map[string]int{one: 1, two: 1}, "went nowhere"},
		{"of another scenario", []chattest.KeyTally{tally("copied", 9, 9, 9), tally(one, 1, 1, 1), tally(two, 1, 1, 1)}, 0, map[string]int{one: 1, two: 1}, ""},
	} {
		s := &Soaked{Runs: 2, Succeeded: 2}
		wrong := account(chattest.Snapshot{Keys: tc.keys, Strays: tc.strays}, tc.attempts, s)
		if tc.wrong == "" && len(wrong) > 0 || tc.wrong != "" && !strings.Contains(strings.Join(wrong, "\n"), tc.wrong) {
			t.Errorf("%s: %q", tc.name, wrong)
		}
	}
	if wrong := account(chattest.Snapshot{}, nil, &Soaked{Runs: 1}); len(wrong) == 0 {
		t.Error("a run that did not succeed is fine")
	}
}

// TestSoakFails lets memory and goroutines grow.
func TestSoakFails(t *testing.T) {
	level, leak := figures.Slope{Mean: 100, PerHour: 1, Within: 2}, figures.Slope{Mean: 100, PerHour: 50, Within: 2}
	if err := (Soaked{Memory: level, Goroutines: level}).Err(); err != nil {
		t.Error(err)
	}
	for _, s := range []Soaked{{Memory: leak, Goroutines: level}, {Memory: level, Goroutines: leak}, {Memory: level, Goroutines: level, Wrong: []string{"x"}}} {
		if s.Err() == nil {
			t.Errorf("%+v is fine", s)
		}
	}
}

// TestRows says that each row has what its rule needs, and a name of its own.
func TestRows(t *testing.T) {
	var ids []string
	for _, s := range Scenarios() {
		for _, r := range s.Rows {
			if r.ID == "" || r.Figure == "" || r.Unit == "" || r.Budget <= 0 || (r.Rule == figures.AtMost) != (r.Floor == "") {
				t.Errorf("%+v", r)
			}
			if slices.Contains(ids, r.ID) {
				t.Errorf("two rows are called %s", r.ID)
			}
			ids = append(ids, r.ID)
		}
	}
	for id := range shortfalls {
		if !slices.Contains(ids, id) {
			t.Errorf("%s is a shortfall of no row", id)
		}
	}
}
