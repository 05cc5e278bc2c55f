// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package rows

import "time"

// Load is runs that stream at once, each with one reader, at so many tokens a second.
type Load struct {
	Runs      int
	PerSecond float64
}

// Scale is how much is done. Full is what the budgets speak of; Tiny shows that each
// row can be measured, and its figures mean nothing.
type Scale struct {
	// Workers create runs at a time; FloorWorkers are tried by the bare client.
	Workers      int
	FloorWorkers []int
	// Window is how long is looked at what streams.
	Window time.Duration
	// Settling is how long a process is left alone before its memory is read, and
	// Quiet how long the manager asks nothing before it is taken to be done.
	Settling, Quiet time.Duration
	// Many and Fast are the two loads of the relay, Silent the runs that say nothing,
	// Huge those that have to fit into a GiB.
	Many, Fast, Huge Load
	Silent           int
	// Crowd reads one run.
	Crowd int
	// OneByOne is how many runs an idle system is asked for.
	OneByOne int
	// Burst and LargeBurst are made at once, Floor by the bare client, Counted to count
	// what they ask of the API server.
	Burst, LargeBurst, Floor, Counted int
	// Offered is for how long runs are offered at a rate.
	Offered time.Duration
	// Stored is how many finished runs there are, Starts how often a manager starts.
	Stored, Starts int
	// SoakParts at the pace of Many are the answers of a soak: runs end and begin all the
	// time, so that a leak of each shows.
	SoakParts int
	// Filling comes before a soak, with the same load: heaps and stores fill, and
	// client-go remembers each Event for 6 to 12 minutes.
	Filling time.Duration
	// Growth is one load, spread over ever more runs.
	Growth []Load
}

// Full is the scale of the budgets.
func Full() Scale {
	return Scale{
		Workers: 16, FloorWorkers: []int{8, 16, 32}, Window: 8 * time.Second, Settling: 2 * time.Second, Quiet: time.Second,
		Many: Load{1000, 5}, Fast: Load{100, 50}, Huge: Load{10_000, 0.1}, Silent: 1000,
		Crowd: 1000, OneByOne: 20,
		Burst: 200, LargeBurst: 1000, Floor: 400, Counted: 50,
		Offered: 12 * time.Second, Stored: 20_000, Starts: 3, SoakParts: 150, Filling: 12 * time.Minute,
		Growth: []Load{{10, 100}, {100, 10}, {1000, 1}, {5000, 0.2}},
	}
}

// Tiny ends within a minute.
func Tiny() Scale {
	return Scale{
		Workers: 4, FloorWorkers: []int{4}, Window: 500 * time.Millisecond, Settling: 100 * time.Millisecond, Quiet: 300 * time.Millisecond,
		Many: Load{6, 5}, Fast: Load{3, 50}, Huge: Load{8, 2}, Silent: 5,
		Crowd: 8, OneByOne: 3,
		Burst: 6, LargeBurst: 10, Floor: 8, Counted: 4,
		Offered: time.Second, Stored: 20, Starts: 1, SoakParts: 2, Filling: time.Second,
		Growth: []Load{{2, 10}, {4, 5}},
	}
}

// The answers of all runs that end: 50 tokens in 295 ms.
const (
	answerParts = 50
	answerPace  = 6 * time.Millisecond
	// answerTime is what a provider takes for one: no pause is after the last.
	answerTime = (answerParts - 1) * answerPace
)

// offeredShare is how much of what the bare client reaches is offered.
const offeredShare = 0.7

// lasting is how many parts an answer has that is to go on until it is stopped: for
// the time in which the runs are made, at 20 a second on a slow machine, and a minute.
func (l Load) lasting() int {
	return max(1, int((60+float64(l.Runs)/20)*l.PerSecond))
}

func (l Load) pace() time.Duration { return time.Duration(float64(time.Second) / l.PerSecond) }
