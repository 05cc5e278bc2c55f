// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build race

package harness

import "time"

// TakeoverSlack, CancelWithin and NoticeWithin are wider with the race detector: then suites run
// beside each other on a machine that may have two processors, and what they measure
// is how long a process waits for one.
const (
	TakeoverSlack = 10 * time.Second
	CancelWithin  = 5 * time.Second
	NoticeWithin  = 2 * time.Second
)
