// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package actor

import (
	"errors"
	"hash/fnv"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"chatrun.dev/operator/internal/chattest"
)

// Script is how the provider answers those who ask for the model of its name.
type Script struct {
	Name string
	// Parts is how many an answer has, Pace the time between two.
	Parts int
	Pace  time.Duration
	// Spread lets the first part wait for up to a pace, drawn anew for each request:
	// streams that begin together would else all speak at the same moments.
	Spread bool
	// Silent answers with a header and the vendor's first event, and then with nothing.
	Silent bool
	// Faults is the share of requests that go wrong in one of the ways of a provider,
	// as long as a run has had fewer than maxFaults of them.
	Faults float64
	Seed   uint64
}

// maxFaults is well below the attempts of a run, so that every run ends well.
const maxFaults = 4

// token is what a part says beside its stamp: as long as those of most models.
const token = " token"

// Provider is the fake provider: one server for all scripts.
type Provider struct {
	server *chattest.Server

	mu      sync.Mutex
	scripts map[string]Script
}

func newProvider() *Provider {
	p := &Provider{scripts: map[string]Script{}}
	p.server = chattest.New(p.answer)
	return p
}

// Listen returns the URL that it serves from now on, without a path.
func (p *Provider) Listen(_ None, url *string) error {
	err := p.server.Listen("127.0.0.1:0")
	*url = p.server.URL()
	return err
}

// Learn takes a script.
func (p *Provider) Learn(s Script, _ *None) error {
	if s.Name == "" || s.Parts < 1 {
		return errors.New("a script needs a name and parts")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.scripts[s.Name] = s
	return nil
}

// Live is how many streams are under way.
func (p *Provider) Live(_ None, n *int) error {
	*n = p.server.Ledger().Live()
	return nil
}

// Ledger is what was asked so far.
func (p *Provider) Ledger(_ None, s *chattest.Snapshot) error {
	*s = p.server.Ledger().Snapshot()
	return nil
}

// answer is the script of the chattest server.
func (p *Provider) answer(r chattest.Request) chattest.Response {
	p.mu.Lock()
	s, ok := p.scripts[r.Model]
	p.mu.Unlock()
	if !ok {
		return chattest.UnknownModel(r)
	}
	answer := chattest.Answer(slices.Repeat([]string{token}, s.Parts)...).Pace(s.Pace).Stamped(stamp)
	if s.Silent {
		return answer.StallAfter(0)
	}
	if s.Spread {
		answer = answer.FirstDelay(rand.N(s.Pace))
	}
	if s.Faults == 0 {
		return answer
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(r.LastUser)) // it never fails
	dice := rand.New(rand.NewPCG(s.Seed^h.Sum64(), uint64(r.N)))
	if r.N > maxFaults || dice.Float64() >= s.Faults {
		return answer
	}
	return s.fault(answer, dice)
}

// fault is one of the ways in which providers fail.
func (s Script) fault(answer chattest.Response, dice *rand.Rand) chattest.Response {
	k := dice.IntN(s.Parts)
	overloaded := chattest.OpenAIErrorResponse(http.StatusServiceUnavailable, "server_error", "", "overloaded")
	faults := []chattest.Response{
		overloaded,
		chattest.OpenAIServerErrorResponse(),
		chattest.OpenAIRateLimitResponse().RetryAfter(time.Second),
		chattest.Reset(),
		answer.ResetAfter(k),
		answer.EndAfter(k),
		answer.ErrorEventAfter(k, overloaded),
		answer.StallAfter(k),
	}
	return faults[dice.IntN(len(faults))]
}
