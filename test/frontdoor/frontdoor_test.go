// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package frontdoor

import "testing"

// TestFrontDoor reads through one door, all at once: what takes minutes is to
// be no more than what the others wait for anyway.
func TestFrontDoor(t *testing.T) {
	t.Parallel()
	d := open(t, fewSeats...)
	for name, test := range map[string]func(*testing.T, *door){
		"tokens come live, with the role alone": testLive,
		"refusals":                              testRefusals,
		"forgeries":                             testForgery,
		"a stream lives longer than three minutes": testLong,
		"a hundred streams hold no seat":           testFairness,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, d)
		})
	}
}
