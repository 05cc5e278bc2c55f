// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build !race

package harness

import "time"

// TakeoverSlack is how much later than a Lease lapses its runs are taken over at the
// latest, CancelWithin how long a replica that was continued may take to end what
// others have taken over, and NoticeWithin how long the fake provider may take to see
// that a request was given up.
const (
	TakeoverSlack = 2 * time.Second
	CancelWithin  = time.Second
	NoticeWithin  = 100 * time.Millisecond
)
