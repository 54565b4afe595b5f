-- A payment that failed because the cardholder must confirm it is mended by them alone, so they are told apart.
ALTER TABLE invoices ADD COLUMN needs_confirmation boolean NOT NULL DEFAULT false;
