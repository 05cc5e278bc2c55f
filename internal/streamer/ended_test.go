// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"context"
	"testing"

	"chatrun.dev/operator/internal/chatretry"
	"chatrun.dev/operator/internal/provider"
)

// TestEndedIsToldFirst: whoever learns of an outcome finds that its place is free.
func TestEndedIsToldFirst(t *testing.T) {
	for _, err := range []error{nil, &chatretry.Failure{Class: chatretry.Overloaded}} {
		told := make(chan *Outcome, 1)
		nudged := make(chan *Outcome, 1)
		var p *Pool
		p = NewPool(caller(func(context.Context, func(provider.Part)) (provider.Result, error) { return stopped, err }), NewHub(), func(run Run) {
			s, _ := p.Look(run.Namespace, run.Name)
			select {
			case o := <-told:
				if o != s.Outcome {
					t.Errorf("told of %v, and then it is %v", o, s.Outcome)
				}
			default:
				t.Error("nobody was told before")
			}
			nudged <- s.Outcome
		})
		a := Attempt{Run: hello, Number: 1, Ended: func(o *Outcome) {
			if s, _ := p.Look(hello.Namespace, hello.Name); !s.Running {
				t.Error("it can be known already")
			}
			told <- o
		}}
		if e := p.Start(a); e != nil {
			t.Fatal(e)
		}
		if o := <-nudged; o.Good() != (err == nil) {
			t.Errorf("%v", o)
		}
		if e := p.Shutdown(t.Context()); e != nil {
			t.Error(e)
		}
	}
}
