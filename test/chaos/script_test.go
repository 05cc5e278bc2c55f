// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"chatrun.dev/operator/internal/chattest"
)

// script is how the provider fails: what it answers the n-th request of a run
// with follows from the seed, the run and n alone.
type script struct {
	seed uint64
	// slow is how many times as long each answer takes; 0 is once.
	slow int
	// lasting lets some answers take longer than a Lease.
	lasting bool
	// good makes every answer a good one, with this pause between its parts; alike
	// gives all answers so many parts, if it is above 0.
	good  bool
	pause time.Duration
	alike int
}

const (
	// faultShare of the requests fail, as long as the run has had fewer than
	// maxFaulty: then it is answered.
	faultShare = 0.55
	maxFaulty  = 5
	// longShare of the answers, one in so many, are longer than what a status holds.
	longShare = 8
	// stallShare of the faults are a silence, which costs a whole second each.
	stallShare = 0.06
	// slowest is the share of answers, one in so many, that take slowestPace between
	// their parts, and so longer than a Lease as a rule. A silence is longer still.
	slowest     = 5
	slowestPace = 700 * time.Millisecond
)

func runName(n int) string  { return fmt.Sprintf("run-%03d", n) }
func question(n int) string { return "question of " + runName(n) }

// text is the whole answer to a question.
func (s script) text(question string) string { return strings.Join(s.parts(question), "") }

func (s script) parts(question string) []string {
	if s.alike > 0 {
		return slices.Repeat([]string{"word "}, s.alike)
	}
	d := s.dice(question, 0)
	words := chattest.Words("the answer to the " + question + ":")
	for i := range 2 + d.IntN(20) {
		words = append(words, fmt.Sprintf(" word-%d-%d", i, d.IntN(1000)))
	}
	if d.IntN(longShare) == 0 {
		// It stands in an object of its own.
		words = append(words, strings.Repeat(" <long>", 3000+d.IntN(3000)))
	}
	return words
}

// dice is for the n-th request of a run, 0 for what is the same for all.
func (s script) dice(question string, n int) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(question)) // it never fails
	return rand.New(rand.NewPCG(s.seed^h.Sum64(), uint64(n)))
}

func (s script) answer(r chattest.Request) chattest.Response {
	d := s.dice(r.LastUser, r.N)
	parts := s.parts(r.LastUser)
	if s.good {
		return chattest.Answer(parts...).Pace(s.pause)
	}
	pace := time.Duration((1+d.IntN(25))*max(s.slow, 1)) * time.Millisecond
	if s.lasting && d.IntN(slowest) == 0 {
		pace = slowestPace
	}
	answer := chattest.Answer(parts...).Pace(pace)
	if r.N > maxFaulty || d.Float64() > faultShare {
		return answer
	}
	k := d.IntN(len(parts))
	if d.Float64() < stallShare {
		return answer.StallAfter(k)
	}
	overloaded := chattest.OpenAIErrorResponse(http.StatusServiceUnavailable, "server_error", "", "overloaded")
	limited := chattest.OpenAIRateLimitResponse().RetryAfter(time.Duration(30+d.IntN(100)) * time.Millisecond)
	faults := []chattest.Response{
		overloaded,
		overloaded.SlowHeaders(50 * time.Millisecond),
		limited,
		chattest.OpenAIServerErrorResponse(),
		chattest.Reset(),
		answer.ResetAfter(k),
		answer.ResetAfter(len(parts)),
		answer.EndAfter(k),
		answer.Unterminated().Finish(""),
		answer.ErrorEventAfter(k, overloaded),
		answer.ErrorEventAfter(k, limited),
		answer.TruncateAt(1 + d.IntN(1000)).Pace(0),
	}
	return faults[d.IntN(len(faults))]
}
