// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package chattest is a fake model provider: one Server that speaks OpenAI chat
// completions (POST …/chat/completions) and Anthropic messages (POST
// …/v1/messages), streamed and not, over HTTP/1.1 and HTTP/2. Tests, the demo
// and the benchmarks share it.
//
// A Script decides what each request is answered with, by values:
//
//	server := chattest.Start(t, chattest.Sequence(
//		chattest.AnthropicOverloadedResponse(),
//		chattest.Answer("Hel", "lo").Pace(30*time.Millisecond).ResetAfter(1),
//		chattest.Answer("Hel", "lo").Usage(12, 2),
//	))
//	// server.URL() + "/v1" is the base URL for OpenAI, server.URL() for Anthropic.
//	…
//	n := server.Ledger().CountFor("the prompt", chattest.PurposeAnswer)
//
// An Answer is rendered in the form of the vendor that was asked. What was
// scripted is sent as it is, also where it makes no sense, such as an Anthropic
// error on an OpenAI path. What no script mentions is done as the vendors do it:
// a request that they would refuse is refused in their words.
//
// A streaming request counts as an answer, any other as a title. Scripts are
// for answers; titles get DefaultTitle unless the option Titles says otherwise.
//
// The Ledger counts every request before anything is answered, so a test reads
// from it how often a provider was really called.
//
// All waiting is on plain timers and channels, so a Server on an in-memory
// listener runs inside a testing/synctest bubble.
package chattest
