// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package page opens the page of a real manager in headless Chromium, and uses it
// as people do: scenarios/*.mjs say how, and what has to be seen. Every state is
// looked at by axe-core, in light and dark, and no console may show an error that
// the scenario does not expect.
//
// It needs more than Go, so `make test` leaves it out and `make test-page` runs it.
// With -update it writes the pictures of docs/images.
package page
